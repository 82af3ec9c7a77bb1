import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import SchemaMismatchError
from features.fit import fit_schema
from features.load import parse_feature_set
from features.schema import FeatureSchema, Moments, Vocabulary
from features.storage import load_schema, save_schema

BASE = """
sources:
  events: {path: e.parquet, where: "n > 0"}
  users: {path: u.parquet, on: u}
entity: {user: u, item: i, time: {column: t, unit: s}}
label: {name: y, expr: n > 1}
weight: n
split: {kind: random, seed: 1}
defaults: {dim: 8}
tables:
  shared: {scheme: unified, rows: 99, dim: 4}
features:
  - {name: i, kind: categorical, table: shared}
  - {name: last, kind: categorical, like: i, column: i}
  - {name: g, kind: categorical, split: "|", pooling: sum}
  - {name: hashed, kind: categorical, column: g, table: shared, encoding: {kind: hash, size: 50}}
  - {name: b, kind: bucketized, column: n, quantiles: 2}
  - {name: d, kind: dense, column: n, standardize: true, fill: 3}
  - {name: e, kind: dense, column: n, fill: mean}
  - {name: v, kind: vector, size: 1}
  - {name: h, kind: sequence, of: i, max_length: 5}
"""
DATA = {
    "i": ["x", "y", "x"], "g": ["a|b", "b", ""], "n": [1, 2, 3], "v": [[0.0]] * 3,
    "u": [1, 1, 2], "t": [1, 2, 3],
}  # fmt: skip


@pytest.fixture(scope="session")
def fitted(events):
    def run(*changes: tuple[str, str], data=DATA) -> FeatureSchema:
        text = BASE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return fit_schema(parse_feature_set(text, name="f.yaml"), events(data))

    return run


def test_fingerprint_never_changes(fitted):
    assert fitted().fingerprint() == "6ed55c9a9dc272db"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: last", "name: previous"),
        ("{name: v, kind: vector, size: 1}", "{name: v, kind: categorical, column: g}"),
        ("column: i}", "column: g}"),
        ("column: i}", "expr: lower(i)}"),
        ("like: i, column: i", "like: g, split: '|', column: i"),
        ('split: "|"', 'split: ","'),
        ('split: "|",', 'split: "|", fill: a,'),
        ("{kind: hash, size: 50}", "{kind: hash, size: 51}"),
        ("{kind: hash, size: 50}", "vocab"),
        ("quantiles: 2", "boundaries: [7]"),
        ("quantiles: 2", "quantiles: 2, fill: 0"),
        ("standardize: true", "standardize: false"),
        ("standardize: true", "standardize: true, clip: [0, 2]"),
        ("standardize: true", "standardize: true, transform: sqrt"),
        ("fill: 3", "fill: 4"),
        ("max_length: 5", "max_length: 6"),
        ("max_length: 5", "max_length: 5, where: n > 1"),
        ("max_length: 5", "max_length: 5, times: n"),
        ("max_length: 5", "max_length: 5, times: t"),
        ("of: i, max", "of: [i, b], max"),
        ("unit: s", "unit: ms"),
        ("user: u", "user: i"),
        ("on: u", "on: i"),
        ("n > 0", "n > -1"),
        ("  - {name: v, kind: vector, size: 1}\n", ""),
    ],
)
def test_fingerprint_changes_with_the_encoding(fitted, old, new):
    assert fitted((old, new)).fingerprint() != fitted().fingerprint()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("shared", "common"),
        ("scheme: unified, rows: 99", "scheme: hash, budget: 1MB"),
        ("dim: 4", "dim: 5"),
        ("dim: 8", "dim: 9"),
        ("table: shared}", "table: shared, probes: 2}"),
        ("pooling: sum", "pooling: mean"),
        ("max_length: 5", "max_length: 5, pooling: mean"),
        ("e.parquet", "other.parquet"),
        ("users: {path: u", "people: {path: p"),
        ("name: y, expr: n > 1", "name: z, expr: n > 2, where: n > 0"),
        ("weight: n\n", ""),
        ("seed: 1", "seed: 2"),
        ("kind: random, seed: 1", "kind: leave_one_out"),
        ("{name: v, kind: vector, size: 1}", "{name: v, column: v, kind: vector, size: 1}"),
        ("kind: categorical, table: shared}", "kind: categorical, encoding: {max_size: 9}}"),
        ("quantiles: 2", "boundaries: [3]"),
    ],
)
def test_fingerprint_does_not_change_with_the_rest(fitted, old, new):
    assert fitted((old, new)).fingerprint() == fitted().fingerprint()


def test_fingerprint_and_fitted_contents(fitted):
    base = fitted()
    lines = BASE.strip().split("\n")
    first = next(k for k, line in enumerate(lines) if line == "features:") + 1
    reordered = "\n".join([*lines[:first], *reversed(lines[first:])])
    assert replace(
        base, feature_set=parse_feature_set(reordered, name="f")
    ).fingerprint() == base.fingerprint()  # fmt: skip
    vocabulary = base.vocabularies["i"]

    def with_values(values: pl.Series, counts: list[int]) -> str:
        changed = {"i": Vocabulary(values=values, counts=pl.Series(counts))}
        return replace(base, vocabularies={**base.vocabularies, **changed}).fingerprint()

    assert with_values(vocabulary.values, [70, 7]) == base.fingerprint()
    assert with_values(vocabulary.values.reverse(), [2, 1]) != base.fingerprint()
    assert with_values(pl.Series(["x"]), [2]) != base.fingerprint()
    joined = [with_values(pl.Series(v), [1, 1]) for v in (["1:a", "b"], ["1:", "ab"])]
    assert joined[0] != joined[1]
    assert with_values(pl.Series([1, 2]), [1, 1]) != with_values(pl.Series(["1", "2"]), [1, 1])

    def with_moments(name: str, moments: Moments) -> str:
        return replace(base, moments={**base.moments, name: moments}).fingerprint()

    d, e = base.moments["d"], base.moments["e"]
    assert with_moments("d", replace(d, mean=9.0)) != base.fingerprint()
    assert with_moments("d", replace(d, raw_mean=9.0)) == base.fingerprint()
    assert with_moments("e", replace(e, mean=9.0)) == base.fingerprint()
    assert with_moments("e", replace(e, raw_mean=9.0)) != base.fingerprint()


def test_numbers_of_ids_and_decoding(fitted):
    schema = fitted()
    names = ["i", "last", "g", "hashed", "b"]
    assert [schema.num_ids(name) for name in names] == [3, 3, 3, 50, 2]
    ids = pl.Series([0, 2, 1])
    assert schema.decode("last", ids).to_list() == [None, "y", "x"]
    assert schema.decode("b", pl.Series([1, 0])).to_list() == ["[3, inf)", "[-inf, 3)"]
    for name in ("d", "h", "nothing"):
        with pytest.raises(KeyError):
            schema.num_ids(name)
    with pytest.raises(ValueError, match=r"features\.i: no such id, got 3; allowed 0 \.\.\. 3 - 1"):
        schema.decode("i", pl.Series([1, 3]))
    with pytest.raises(ValueError, match="values of encoding hash are not known"):
        schema.decode("hashed", ids)
    whole = fitted(("{kind: hash, size: 50}", "hash"))
    assert whole.num_ids("hashed") is None
    identity = fitted(("column: g, table: shared, encoding: {kind: hash", "column: n, table: shared"
                       ", encoding: {kind: identity"))  # fmt: skip
    assert identity.decode("hashed", ids).to_list() == [0, 2, 1]


def same(first: FeatureSchema, second: FeatureSchema) -> bool:
    pairs = [(first.vocabularies[n], second.vocabularies[n]) for n in first.vocabularies]
    return (
        first.feature_set == second.feature_set
        and list(first.vocabularies) == list(second.vocabularies)
        and all(
            a.values.equals(b.values, check_dtypes=True) and a.counts.equals(b.counts)
            for a, b in pairs
        )
        and (first.boundaries, first.moments) == (second.boundaries, second.moments)
        and first.multi_valued == second.multi_valued
    )


def test_a_saved_schema_comes_back(fitted, tmp_path):
    schema = fitted()
    save_schema(schema, tmp_path / "a" / "schema")
    assert same(load_schema(tmp_path / "a" / "schema"), schema)
    smaller = fitted(("{name: g, kind: categorical", "{name: g2, column: g, kind: categorical"))
    save_schema(smaller, tmp_path / "a" / "schema")
    assert same(load_schema(tmp_path / "a" / "schema"), smaller)
    files = sorted(p.name for p in (tmp_path / "a" / "schema" / "vocabularies").iterdir())
    assert files == ["g2.parquet", "i.parquet"]


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(
    st.lists(st.text(), unique=True).map(lambda v: pl.Series("value", v, dtype=pl.String)),
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True).map(
        lambda v: pl.Series("value", v, dtype=pl.Int64)
    ),
    st.permutations([True, False]).map(lambda v: pl.Series("value", v)),
)


@settings(deadline=None, max_examples=40)
@given(VALUES, st.lists(FLOATS, unique=True).map(sorted), st.tuples(FLOATS, FLOATS, FLOATS))
def test_any_schema_comes_back(tmp_path_factory, values, boundaries, moments):
    text = """
    sources: {events: é.parquet}
    features:
      - {name: a, kind: categorical}
      - {name: b, kind: bucketized, quantiles: 3}
      - {name: d, kind: dense, standardize: true}
    """
    schema = FeatureSchema(
        feature_set=parse_feature_set(text, name="f"),
        vocabularies={"a": Vocabulary(values, pl.Series("count", range(len(values)), pl.Int64))},
        boundaries={"b": tuple(boundaries)},
        moments={"d": Moments(*moments)},
    )
    directory = tmp_path_factory.mktemp("schema")
    save_schema(schema, directory)
    assert same(load_schema(directory), schema)


def damaged(directory: Path, how: str) -> None:
    path = directory / "schema.json"
    content = json.loads(path.read_text())
    match how:
        case "gone":
            path.unlink()
            return
        case "cut":
            path.write_text(path.read_text()[:-9])
            return
        case "newer":
            content["format"] = 99
        case "vocabulary":
            (directory / "vocabularies" / "i.parquet").unlink()
        case "order":
            table = pl.read_parquet(directory / "vocabularies" / "i.parquet")
            table.reverse().write_parquet(directory / "vocabularies" / "i.parquet")
        case "key":
            del content["moments"]
        case "spec":
            content["feature_set"]["features"][0]["kind"] = "other"
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("gone", "no readable schema"),
        ("cut", "no readable schema"),
        ("newer", "unknown format, got 99; allowed up to 1"),
        ("vocabulary", "damaged schema"),
        ("order", "contents were changed"),
        ("key", "damaged schema"),
        ("spec", "damaged schema"),
    ],
)
def test_damaged_schemas(fitted, tmp_path, how, message):
    save_schema(fitted(), tmp_path)
    damaged(tmp_path, how)
    with pytest.raises(SchemaMismatchError, match=message):
        load_schema(tmp_path)
