import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from ruamel.yaml import YAML

from features.__main__ import main
from features.json_schema import feature_file_schema, schema_text
from features.load import load_feature_set
from features.storage import load_schema

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "features").glob("*.yaml"))
FEATURES = """
sources: {events: e.parquet}
entity: {user: u, time: t}
tables: {small: {scheme: unified, budget: 800B}}
features:
  - {names: [u, v], kind: categorical, table: small}
  - {name: own, kind: categorical, column: u, dim: 4}
  - {name: wide, kind: categorical, column: u, table: small, encoding: hash}
  - {name: n, kind: dense}
  - {name: h, kind: sequence, of: own, max_length: 9}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "f.yaml").write_text(FEATURES)
    data = {"u": [1, 2, 3], "v": ["a", "b", "a"], "n": [1, 2, 3], "t": [1, 2, 3]}
    pl.DataFrame(data).write_parquet(tmp_path / "e.parquet")
    return tmp_path


def cells(text: str) -> list[list[str]]:
    lines = [line.replace("┃", "│") for line in text.splitlines() if line[:1] in "│┃"]
    return [[cell.strip() for cell in line[1:-1].split("│")] for line in lines]


def test_check_without_data(place, capsys):
    assert main(["check", str(place / "f.yaml")]) == 0
    rows = cells(capsys.readouterr().out)
    assert ["h", "sequence", "last 9 of own", "", ""] in rows
    assert ["small", "unified", "u, v, wide", "12", "16", "800 B"] in rows
    assert ["own", "full", "own", "from data", "4", "from data"] in rows


def test_check_with_data(place, capsys):
    assert main(["check", str(place / "f.yaml"), "--data", str(place)]) == 0
    rows = cells(capsys.readouterr().out)
    assert ["v", "categorical", "v", "small", "3"] in rows
    assert ["wide", "categorical", "u", "small", "63-bit hash"] in rows
    assert ["own", "full", "own", "4", "4", "64 B"] in rows


def test_mistakes_go_to_stderr(place, capsys):
    (place / "f.yaml").write_text("sources: {events: e.parquet}\nfeatures: [{name: a}, 3]")
    assert main(["check", str(place / "f.yaml")]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert len(found.err.splitlines()) == 2


def test_check_as_json(place, capsys):
    arguments = ["check", str(place / "f.yaml"), "--data", str(place), "--json"]
    assert main([*arguments, "--world-size", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == {"train": 3, "val": 0, "test": 0}
    assert (found["mistakes"], found["warnings"]) == ([], [])
    small, own = found["tables"]
    assert small["read_by"] == ["u", "v", "wide"]
    assert (own["rows"], own["bytes"], own["bytes_with_state"]) == (4, 64, 192)
    assert found["memory"] == {
        "world_size": 2,
        "bytes_per_rank": 4 * (12 * 16 * 4 + 64),
        "not_estimated": [],
    }
    ids = {c["feature"]: c["num_ids"] for c in found["collisions"]}
    assert ids == {"u": 4, "v": 3, "wide": 3}
    assert main([*arguments[:2], "--json"]) == 0
    without = json.loads(capsys.readouterr().out)
    assert without.keys() == found.keys()
    assert without["rows"] is without["data"] is without["fingerprint"] is None
    assert without["memory"]["not_estimated"] == ["own"]


def test_mistakes_as_json(place, capsys):
    (place / "f.yaml").write_text(FEATURES.replace("kind: dense", "kind: categorical, fill: x"))
    arguments = ["check", str(place / "f.yaml"), "--data", str(place), "--json"]
    assert main(arguments) == 2
    found = capsys.readouterr()
    [mistake] = json.loads(found.out)["mistakes"]
    assert found.err == mistake + "\n"
    assert "fill must be of the column's type" in mistake


def test_warnings_are_told_apart_and_the_exit_code_is_0(place, capsys):
    rows = 400
    data = {
        "u": [k % 9 for k in range(rows)],
        "v": ["ab"[k % 2] for k in range(rows)],
        "n": [1] * rows,
        "t": list(range(rows)),
        "y": [k % 2 for k in range(rows)],
    }
    pl.DataFrame(data).write_parquet(place / "e.parquet")
    (place / "f.yaml").write_text(FEATURES + "label: {name: y}\nsplit: {kind: random}\n")
    assert main(["check", str(place / "f.yaml"), "--data", str(place)]) == 0
    found = capsys.readouterr()
    assert found.err == ""
    told = found.out.partition("Warnings, 2; the file can be used as it is:\n")[2].splitlines()
    assert told == [
        "  v: is the label 'y': AUC 1.0000 alone; drop it, unless it is truly known before the "
        "event",
        "  n: has one value in training, from which nothing can be learned; drop it",
    ]


@pytest.mark.parametrize("size", ["0", "-1", "two"])
def test_a_world_has_ranks(place, size, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", str(place / "f.yaml"), "--world-size", size])
    assert stop.value.code == 2
    assert "--world-size" in capsys.readouterr().err


def test_fit_writes_a_schema(place, capsys):
    arguments = ["fit", str(place / "f.yaml"), "--data", str(place), "--out", str(place / "s")]
    assert main(arguments) == 0
    schema = load_schema(place / "s")
    assert capsys.readouterr().out == f"{place / 's'}: schema {schema.fingerprint()}\n"
    assert schema.num_ids("own") == 4


def test_check_needs_no_torch():
    code = (
        "import sys; from features.__main__ import main; "
        f"assert main(['check', {str(CONFIGS[0])!r}]) == 0; "
        "assert not {'torch', 'torchrec', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_the_stored_json_schema_is_current():
    assert (ROOT / "configs" / "features" / "schema.json").read_text() == schema_text()


def accepts(value, node, parts) -> bool:
    """Whether a JSON Schema, of the keywords used here, allows a value."""
    if "$ref" in node:
        return accepts(value, parts[node["$ref"].rpartition("/")[2]], parts)
    for key, allowed in (("anyOf", lambda n: n >= 1), ("oneOf", lambda n: n == 1)):
        if key in node and not allowed(sum(accepts(value, n, parts) for n in node[key])):
            return False
    if "const" in node and value != node["const"]:
        return False
    if "enum" in node and value not in node["enum"]:
        return False
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    types = {
        "object": isinstance(value, dict), "array": isinstance(value, list),
        "string": isinstance(value, str), "boolean": isinstance(value, bool),
        "null": value is None, "number": is_number, "integer": is_number and value == int(value),
    }  # fmt: skip
    if "type" in node and not types[node["type"]]:
        return False
    if is_number and value < node.get("minimum", value):
        return False
    if isinstance(value, list):
        size_fits = node.get("minItems", 0) <= len(value) <= node.get("maxItems", len(value))
        return size_fits and all(accepts(v, node.get("items", {}), parts) for v in value)
    if isinstance(value, dict):
        known, other = node.get("properties", {}), node.get("additionalProperties", True)
        return all(key in value for key in node.get("required", ())) and all(
            accepts(v, known[key], parts)
            if key in known
            else other is True or (isinstance(other, dict) and accepts(v, other, parts))
            for key, v in value.items()
        )
    return True


def valid(text: str) -> bool:
    schema = feature_file_schema()
    plain = json.loads(json.dumps(YAML(typ="safe", pure=True).load(text), default=str))
    return accepts(plain, schema, schema["$defs"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_json_schema_accepts_every_feature_file(path):
    assert valid(path.read_text())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("budget", "budget", True),
        ("e.parquet", "[a.parquet, b.parquet]", True),
        ("time: t", "time: {column: t, unit: ms}", True),
        ("features:", "split: leave_one_out\nlabel: {name: y}\nfeatures:", True),
        ("features:", "split: {kind: temporal, val_from: 2020-01-01}\nfeatures:", True),
        ("features:", "label: [{name: y}, {name: z}]\nfeatures:", True),
        ("scheme: unified, budget: 800B", "dim: 3", True),
        ("encoding: hash", "encoding: {max_size: 3}", True),
        ("encoding: hash", "encoding: hashed", False),
        ("time: t", "time: {column: t, unit: sec}", False),
        ("max_length: 9", "max_length: long", False),
        ("max_length: 9", "max_len: 9", False),
        ("scheme: unified", "scheme: shared", False),
        ("features:", "feature:", False),
        ("sources: {events: e.parquet}", "sources: {log: e.parquet}", False),
        ("name: n, kind", "kind", False),
    ],
)
def test_json_schema_of_other_files(old, new, expected):
    assert old in FEATURES
    assert valid(FEATURES.replace(old, new)) is expected


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "num_ids"),
    [
        ("ml1m_unified", {"user_id": 6041, "gender": 3, "age": 8, "occupation": 22}),
        ("ml1m_sequence", {}),
    ],
)
def test_movielens(name, num_ids, tmp_path):
    if "RECSYS_DATA" not in os.environ:
        pytest.skip("RECSYS_DATA is not set")
    data = Path(os.environ["RECSYS_DATA"]) / "ml-1m"
    path = ROOT / "configs" / "features" / f"{name}.yaml"
    assert main(["fit", str(path), "--data", str(data), "--out", str(tmp_path)]) == 0
    schema = load_schema(tmp_path)
    assert schema.feature_set == load_feature_set(path)
    assert (
        num_ids.items()
        <= {f.name: schema.num_ids(f.name) for f in schema.feature_set.embedded}.items()
    )
