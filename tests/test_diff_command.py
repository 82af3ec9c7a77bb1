import json
import subprocess
import sys

import polars as pl
import pytest

from features.fit import fit_schema
from features.load import load_feature_set
from features.storage import save_schema
from recsys.diff import main

HEAD = "sources: {events: e.parquet}\nfeatures:\n"


@pytest.fixture
def edit(tmp_path):
    """Paths of an old and a new feature file."""

    def write(old, new):
        paths = tmp_path / "old.yaml", tmp_path / "new.yaml"
        for path, line in zip(paths, (old, new), strict=True):
            path.write_text(f"{HEAD}  - {{{line}}}\n")
        return [str(path) for path in paths]

    return write


OLD = "name: a, kind: categorical"


@pytest.mark.parametrize(
    ("new", "code", "sentence"),
    [
        (OLD, 0, "Checkpoints fit as they are."),
        (OLD + ", dim: 32", 1, "Checkpoints fit after python -m recsys migrate."),
        (OLD + ", column: b", 2, "python -m recsys migrate needs --reset a."),
    ],
)
def test_words_and_exit_codes(edit, capsys, new, code, sentence):
    assert main(edit(OLD, new)) == code
    assert sentence in capsys.readouterr().out


def test_json(edit, capsys):
    assert main([*edit(OLD, OLD + ", column: b"), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == 1
    assert found["exit_code"] == 2
    assert found["resets"] == ["a"]
    assert found["needs_data"] == {"a": "its ids mean other values now"}
    reason = "ids mean other things: it came from column 'a', comes from column 'b'"
    assert found["changes"][0] == {
        "what": "table", "name": "a", "was": "a", "fate": "reset", "reasons": [reason],
        "table": None,
    }  # fmt: skip


def test_runs_checkpoints_and_bundles(edit, events, tmp_path, capsys):
    old, new = edit(OLD, OLD + ", encoding: {min_count: 2}")
    schema = fit_schema(load_feature_set(old), events({"a": [*"xxyz"]}))
    run = tmp_path / "run"
    run.mkdir()
    (run / "features.yaml").write_text(f"{HEAD}  - {{{OLD}}}\n")
    assert main([str(run), new, "--json"]) == 1
    assert "follows the data" in capsys.readouterr().out
    save_schema(schema, run / "checkpoints" / "last.ckpt" / "schema")
    for folder in (run, run / "checkpoints" / "last.ckpt"):
        assert main([str(folder), new]) == 1
        assert "2 values leave" in capsys.readouterr().out
        assert main([str(folder), str(run)]) == 0
        capsys.readouterr()


def test_all_mistakes_at_once(edit, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "none"), str(tmp_path / "empty")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("OLD: is no feature file, run, checkpoint or bundle, got ")
    assert second.startswith("NEW: is no feature file, run, checkpoint or bundle, got ")
    broken = tmp_path / "broken"
    (broken / "schema").mkdir(parents=True)
    (broken / "schema" / "schema.json").write_text("{")
    assert main([edit(OLD, OLD)[0], str(broken)]) == 2
    assert "no readable schema" in capsys.readouterr().err


def test_it_starts_without_torch():
    code = "import sys, recsys.diff; sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def events():
    return lambda data: (
        pl.DataFrame(data)
        .with_row_index("_row")
        .with_columns(pl.col("_row").cast(pl.Int64), pl.lit("train").alias("_split"))
        .lazy()
    )
