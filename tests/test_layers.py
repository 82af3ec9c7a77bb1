"""What an import may drag in, seen at run time; import-linter reads the rest from the source."""

import subprocess
import sys

import pytest


def modules_after(statement):
    program = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import features.spec, features.schema", {"torch", "torchrec", "lightning"}),
        ("import recsys.data.simulate", {"torch", "torchrec", "lightning"}),
        ("import recsys.doctor", {"torch", "torchrec", "lightning", "polars", "features"}),
    ],
)
def test_light_modules_stay_light(statement, absent):
    assert not modules_after(statement) & absent


def test_the_doctor_needs_none_of_our_other_modules():
    loaded = modules_after("import recsys.doctor")
    ours = {name for name in loaded if name.split(".")[0] in {"features", "recsys", "models"}}
    assert ours == {"recsys", "recsys.doctor"}
