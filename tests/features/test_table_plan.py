import subprocess
import sys

import numpy as np
import pytest
from modes import as_any_new_file
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from features.errors import FeatureConfigError
from features.table_plan import TablePlan, read_plan, write_plan


def plan(**changes):
    kept = {"a": np.array([0, 3, 4]), "b": np.zeros((2, 0), np.int32), "c": np.array(7)}
    first = {"table@a": np.array([[0.5, -1.0]], np.float32)}
    return TablePlan(
        **{"scheme": "pruned", "kept": kept, "first_values": first, "ids": "f"} | changes
    )


def test_a_plan_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "new" / "é.safetensors"
    write_plan(plan(), file)
    found = read_plan(file)
    assert (found.scheme, found.ids, found.digest) == ("pruned", "f", plan().digest)
    for one, other in ((found.kept, plan().kept), (found.first_values, plan().first_values)):
        assert one.keys() == other.keys()
        for name, array in other.items():
            assert one[name].dtype == array.dtype
            np.testing.assert_array_equal(one[name], array)
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    assert as_any_new_file(file)  # another account may search, and this one train


def test_the_digest_tells_apart_what_rows_mean_and_not_where_they_start():
    others = [
        plan(scheme="merged"),
        plan(ids="g"),
        plan(kept={**plan().kept, "a": np.array([0, 3, 5])}),
        plan(kept={**plan().kept, "a": np.array([0, 3, 4], np.int32)}),
        plan(kept={**plan().kept, "b": np.zeros((0, 2), np.int32)}),
        plan(kept={"a": plan().kept["a"]}),
    ]
    assert len({other.digest for other in [*others, plan()]}) == len(others) + 1
    assert plan().without_first_values().digest == plan().digest
    assert not plan().without_first_values().first_values


def test_what_is_no_plan_is_refused(tmp_path):
    file = tmp_path / "plan.safetensors"
    with pytest.raises(FeatureConfigError, match=r"plan.safetensors: is no file"):
        read_plan(file)
    file.write_bytes(b"nothing")
    with pytest.raises(FeatureConfigError, match=r"plan.safetensors: is no plan of a table"):
        read_plan(file)
    save_file({"kept.a": np.zeros(1)}, file)
    with pytest.raises(FeatureConfigError, match=r"unknown format, got None; allowed 1"):
        read_plan(file)
    write_plan(plan(), file)
    arrays = load_file(file)
    arrays["kept.a"] = arrays["kept.a"] + 1
    with safe_open(file, framework="numpy") as opened:
        save_file(arrays, tmp_path / "changed", opened.metadata())
    (tmp_path / "changed").rename(file)
    with pytest.raises(FeatureConfigError, match=r"contents were changed"):
        read_plan(file)


def test_plans_are_read_without_torch(tmp_path):
    write_plan(plan(), tmp_path / "p")
    code = (
        "import sys, pathlib; from features.table_plan import read_plan; "
        f"read_plan(pathlib.Path({str(tmp_path / 'p')!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
