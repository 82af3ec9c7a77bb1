import json
import re
from functools import reduce
from operator import getitem
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from features.errors import FeatureConfigError
from features.load import load_feature_set, parse_feature_set
from features.sizes import format_bytes, parse_bytes
from features.spec import HashEncoding, VocabEncoding
from features.split_spec import LeaveOneOutSplit, TemporalSplit
from features.table_spec import FullTable, UnifiedTable

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "features").glob("*.yaml"))
HEAD = "sources: {events: e.parquet}\n"
FULL = """
sources:
  events: {path: [b.parquet, a.parquet], where: "rating > 0", file_column: file}
  items: {path: items.parquet, on: item_id}
entity: {user: user_id, item: item_id, time: t}
label: {name: liked, expr: "rating >= 4"}
split: leave_one_out
defaults: {dim: 8}
tables:
  shared: {scheme: unified, budget: 1 MB, dim: 30}
  plain: {dim: 4}
features:
  - {names: [item_id, user_id], kind: categorical, table: shared, encoding: hash, probes: 2}
  - {name: last_item, kind: categorical, like: genre, column: prev}
  - {name: genre, kind: categorical, split: "|", encoding: {min_count: 1_0}, dim: 5}
  - {name: age, kind: bucketized, boundaries: [1, 2.5], table: plain}
  - {name: price, kind: dense, clip: [0, 10], fill: mean}
  - {name: history, kind: sequence, of: [item_id, age], max_length: 3}
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(FeatureConfigError) as caught:
        parse_feature_set(text, name="f.yaml")
    return list(caught.value.mistakes)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_feature_file_loads(path):
    assert load_feature_set(path).features


def test_shorthands_are_written_out():
    found = parse_feature_set(FULL, name="f.yaml")
    assert [f.name for f in found.features] == [
        "item_id", "user_id", "last_item", "genre", "age", "price", "history",
    ]  # fmt: skip
    assert found.events.path == ("b.parquet", "a.parquet")
    assert found.attributes["items"].on == "item_id"
    assert found.entity.time is not None
    assert (found.entity.time.column, found.entity.time.unit) == ("t", None)
    assert found.labels == ("liked",)
    assert isinstance(found.split, LeaveOneOutSplit)
    assert found.feature("user_id").encoding == HashEncoding(kind="hash")
    assert found.feature("genre").encoding == VocabEncoding(min_count=10)
    assert found.feature("price").clip == (0, 10)


def test_tables_are_resolved():
    found = parse_feature_set(FULL, name="f.yaml")
    assert [f.name for f in found.embedded] == ["item_id", "user_id", "last_item", "genre", "age"]
    assert found.resolved_tables() == {
        "shared": UnifiedTable(scheme="unified", budget="1 MB", dim=30),
        "plain": FullTable(dim=4),
        "genre": FullTable(dim=5),
    }
    names = ["user_id", "last_item", "genre", "age", "history.item_id", "history.age"]
    tables = ["shared", "genre", "genre", "plain", "shared", "plain"]
    assert [found.table_of(name) for name in names] == tables
    for name in ("price", "history", "nothing"):
        with pytest.raises(KeyError):
            found.table_of(name)


def test_every_mistake_is_reported_at_once():
    text = """\
    sources: {events: ratings.parquet, users: u.parquet}
    entity: {user: user_id, time: {column: t, unit: sec}}
    labels: x
    label: {name: liked, expr: "rating >="}
    split: {kind: randm}
    tables:
      shared: {scheme: unified, row: 13_653, dim: 0}
    features:
      - {name: hour, kind: categorical, colum: ts, table: share}
      - {name: age, kind: categorial}
      - {name: age, kind: categorical, dim: "16"}
      - {kind: dense, fill: x}
      - name: b
        kind: bucketized
        boundaries: [3, 2]
      - {name: w}
      - text
      - {names: [x1, _x2], kind: categorical, like: ag}
      - {name: g, kind: categorical, name: h}
    """
    assert mistakes(dedent(text)) == [
        "f.yaml:1: sources.users: must be a mapping like {path: FILE.parquet, on: KEY}, "
        "got 'u.parquet'",
        "f.yaml:2: entity.time.unit: must be 's', 'ms', 'us' or 'ns', got 'sec'",
        "f.yaml:3: labels: unknown key; allowed sources, entity, label, weight, split, defaults, "
        "tables, features; did you mean 'label'?",
        "f.yaml:4: label.liked.expr: no valid SQL expression, got 'rating >=' "
        "(unable to parse 'rating >=' as Expr)",
        "f.yaml:5: split.kind: unknown kind, got 'randm'; allowed random, temporal, "
        "leave_one_out, column; did you mean 'random'?",
        "f.yaml:7: tables.shared.dim: must be at least 1, got 0",
        "f.yaml:7: tables.shared.row: unknown key; allowed budget, dim, num_tables, "
        "renamed_from, rows, scheme, seed; did you mean 'rows'?",
        "f.yaml:9: features.hour.colum: unknown key; allowed column, dim, encoding, expr, fill, "
        "kind, like, name, pooling, probes, renamed_from, split, table; did you mean 'column'?",
        "f.yaml:9: features.hour.table: unknown table, got 'share'; allowed shared; "
        "did you mean 'shared'?",
        "f.yaml:10: features.age.kind: unknown kind, got 'categorial'; allowed categorical, "
        "bucketized, dense, vector, sequence; did you mean 'categorical'?",
        "f.yaml:11: features.age.dim: must be a whole number, got '16'",
        "f.yaml:11: features.age.name: name taken by another feature, got 'age'; names must differ",
        "f.yaml:12: features.3.name: missing; add it",
        "f.yaml:12: features.3.fill: must be a number or 'mean', got 'x'",
        "f.yaml:15: features.b.boundaries: must be rising, got [3.0, 2.0]",
        "f.yaml:16: features.w.kind: missing; add it, allowed categorical, bucketized, dense, "
        "vector, sequence",
        "f.yaml:17: features.6: must be a mapping of keys to values, got 'text'",
        "f.yaml:18: features._x2.name: names that start with _ are reserved, got '_x2'; "
        "choose another",
        "f.yaml:18: features.x1.like: unknown feature, got 'ag'; allowed hour, age, b, w, x1, "
        "_x2, g; did you mean 'age'?",
        "f.yaml:19: features.8.name: duplicate key, first on line 19; drop one of them",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml:1: must be a mapping with sources and features, got an empty file"),
        ("- 1", "f.yaml:1: must be a mapping with sources and features, got [1]"),
        ("a: [1,\nb", "f.yaml:2: no valid YAML while parsing a flow sequence: "),
        ("a:\n\tb: 1", "f.yaml:2: no valid YAML while scanning for the next token: "),
        (HEAD + "features: []", "f.yaml:2: features: must be a list with at least one feature"),
        (HEAD, "f.yaml:1: features: must be a list with at least one feature, got none"),
        ("features: [{name: a, kind: dense}]", "f.yaml:1: sources: missing; add `sources:"),
        ("sources: {event: e}\nfeatures: [{name: a, kind: dense}]",
         "f.yaml:1: sources.events: missing; add the event log; did you mean 'event'?"),
        (HEAD + "features: [{name: a, kind: dense}]\nfeatures: 1",
         "f.yaml:3: features: duplicate key, first on line 2; drop one of them"),
        (HEAD + "features: [{name: !x a, kind: dense}]", "f.yaml:2: features.0.name: unknown tag"),
        (HEAD + "features: [{name: \x07}]",
         "f.yaml:2: no valid YAML: character '\\x07' is not allowed; drop it"),
        (HEAD + "features: [{name: 2020-13-45}]",
         "f.yaml:2: features.0.name: no valid value, got '2020-13-45'; quote a text"),
        (HEAD + "features: &a [*a]", "f.yaml:2: features.0: an alias that contains itself"),
    ],
)  # fmt: skip
def test_files_that_are_no_feature_files(text, message):
    assert any(mistake.startswith(message) for mistake in mistakes(text))


C = "kind: categorical"
LOG = "entity: {user: u, item: i, time: t}"


@pytest.mark.parametrize(
    ("top", "features", "message"),
    [
        ("", [f"name: 1a, {C}"], "features.1a.name: no valid name, got '1a'; allowed are a letter"),
        ("", [f"name: é, {C}"], "features.é.name: no valid name, got 'é'"),
        ("label: {name: a}", [f"name: a, {C}"],
         "label.a.name: name taken by another feature, got 'a'; names must differ"),
        ("label: [{name: b}, {name: b}]", [f"name: a, {C}"],
         "label.b.name: name taken by another label, got 'b'; names must differ"),
        ("tables: {t: {dim: 4}}", [f"name: a, {C}"],
         "tables.t: no feature reads this table; drop it or name it in a feature"),
        ("tables: {t: {dim: 4}}", [f"name: a, {C}, table: t, dim: 3"],
         "features.a.dim: not together with table; set it in tables.t.dim"),
        ("tables: {a: {dim: 4}}", [f"name: b, {C}, table: a", f"name: a, {C}"],
         "features.a: its own table would be called like tables.a; add `table: a` or rename"),
        ("tables: {t: {scheme: hash, budget: 12 MX}}", [f"name: a, {C}, table: t"],
         "tables.t.budget: no size in bytes, got '12 MX'; write it like '12.5MB' or '2GiB'"),
        ("tables: {t: {scheme: hash, rows: 4, budget: 3}}", [f"name: a, {C}, table: t"],
         "tables.t.rows: needs exactly one of rows and budget, got both"),
        ("tables: {t: {rows: 4}}", [f"name: a, {C}, table: t"],
         "tables.t.rows: unknown key; allowed dim, renamed_from, scheme"),
        ("tables: {t: {scheme: quantized, bits: 7}}", [f"name: a, {C}, table: t"],
         "tables.t.bits: must be 8 or 16, got 7"),
        ("tables: {t: {scheme: quantized, step_size: 0}}", [f"name: a, {C}, table: t"],
         "tables.t.step_size: must be above 0"),
        ("tables: {t: {scheme: quantized, rows: 9}}", [f"name: a, {C}, table: t"],
         "tables.t.rows: unknown key; allowed bits, dim, renamed_from, scheme, step, step_size"),
        ("tables: {t: {scheme: quantized}}", [f"name: a, {C}, table: t, encoding: hash"],
         "features.a.encoding.size: missing, and a quantized table has a row per id; add a size"),
        ("", [f"name: a, {C}, table: t"],
         "features.a.table: unknown table, got 't'; allowed none, as there is no table to name"),
        ("tables: {t: {scheme: cce, rows: 9}}", [f"name: a, {C}, table: t, encoding: hash"],
         "features.a.encoding.size: missing, and a cce table has a row per id; add a size"),
        ("tables: {t: {scheme: mgqe, rows: 9}}",
         [f"name: a, {C}, table: t, encoding: {{kind: hash, size: 9}}"],
         "features.a.table: a mgqe table tells frequent ids from rare ones, got a feature without"),
        ("tables: {t: {scheme: mgqe, rows: 9}}",
         ["name: a, kind: bucketized, quantiles: 4, table: t"],
         "features.a.table: a mgqe table tells frequent ids from rare ones, got a feature without"),
        ("", [f"name: a, {C}, probes: 2"], "features.a.probes: several probes need a unified"),
        ("", [f"name: a, {C}, encoding: hash"],
         "features.a.encoding.size: missing, and a full table has a row per id; add a size"),
        ("", [f"name: a, {C}, split: ''"], "features.a.split: must be one character or more"),
        ("", [f"name: a, {C}, column: x, expr: y"],
         "features.a.expr: allowed is a column or an expr, got both; drop one"),
        ("", [f"name: a, {C}, expr: sum(x)"],
         "features.a.expr: looks at several rows, got 'sum(x)'; allowed are expressions of one"),
        ("", [f"name: a, {C}, expr: rank() over (order by x)"], "features.a.expr: looks at sev"),
        ("", [f"name: a, {C}, expr: '1'"], "features.a.expr: reads no column, got '1'"),
        ("", [f"name: a, {C}", f"name: b, {C}, like: a", f"name: c, {C}, like: b"],
         "features.c.like: must name a feature that is not itself like another, got 'b'"),
        ("", [f"name: a, {C}, like: b", f"name: b, {C}, like: a"],
         "features.a.like: must name a feature that is not itself like another, got 'b'"),
        ("", [f"name: a, {C}, like: a"], "features.a.like: must name a feature that is not itsel"),
        ("", ["name: a, kind: dense", f"name: b, {C}, like: a"],
         "features.b.like: must name a categorical feature, got 'a', which is dense"),
        ("", [f"name: a, {C}", f"name: b, {C}, like: a, encoding: {{kind: vocab}}"],
         "features.b.encoding: not together with like; 'a' says it"),
        ("entity: {user: u}", [f"name: a, {C}", "name: h, kind: sequence, of: a, max_length: 2"],
         "features.h: a sequence needs entity.time; add it under `entity`"),
        (LOG, [f"name: i, {C}, split: ','", "name: h, kind: sequence, of: i, max_length: 2"],
         "features.h.of: an event has one item, got 'i', which has a split; drop it"),
        (LOG, ["name: a, kind: dense", "name: h, kind: sequence, of: a, max_length: 2"],
         "features.h.of: must name categorical or bucketized features, got 'a', which is dense"),
        (LOG, [f"name: a, {C}", "name: h, kind: sequence, of: [a, a], max_length: 2"],
         "features.h.of: must name different features, got ['a', 'a']"),
        ("", ["name: d, kind: dense, transform: log1p, fill: -3"],
         "features.d.fill: has no log1p, got -3.0; choose another"),
        ("", ["name: d, kind: dense, clip: [1, .inf]"],
         "features.d.clip.1: must be a finite number, got inf"),
        ("", ["name: d, kind: bucketized"],
         "features.d.boundaries: needs exactly one of boundaries and quantiles, got neither"),
        ("split: leave_one_out", ["name: d, kind: dense"],
         "split: leave_one_out needs entity.user; add it under `entity`"),
        ("split: {kind: random, fractions: [0.5, 0.1, 0.1]}", ["name: d, kind: dense"],
         "split.fractions: must be at least 0 and sum to 1, got [0.5, 0.1, 0.1]"),
        ("split: {kind: random, fractions: [0.5, 0.5]}", ["name: d, kind: dense"],
         "split.fractions: list too short, got [0.5, 0.5]"),
        ("split: {kind: random, fractions: [0, 0.5, 0.5]}", ["name: d, kind: dense"],
         "split.fractions: training needs a share, got [0.0, 0.5, 0.5]"),
        (LOG + "\nsplit: {kind: temporal}", ["name: d, kind: dense"],
         "split: temporal needs either fractions, or val_from and test_from"),
        (LOG + "\nsplit: {kind: temporal, fractions: [1, 0, 0], val_from: 3}",
         ["name: d, kind: dense"],
         "split: temporal needs either fractions, or val_from and test_from"),
        (LOG + "\nsplit: {kind: temporal, val_from: 2020-01-02, test_from: 2020-01-01}",
         ["name: d, kind: dense"],
         "split.test_from: must be after val_from, got '2020-01-02', '2020-01-01'"),
        (LOG + "\nsplit: {kind: temporal, val_from: tuesday, test_from: 2020-01-01}",
         ["name: d, kind: dense"],
         "split.val_from: no ISO date or datetime, got 'tuesday'; write 2024-12-31"),
        ("split: {kind: column, column: s, val: [train]}", ["name: d, kind: dense"],
         "split: a value belongs to one of train, val, test, got 'train' twice"),
        ("", ["name: a, kind: dense, renamed_from: a"],
         "features.a.renamed_from: names the feature itself, got 'a'; drop it"),
        ("", ["name: a, kind: dense, renamed_from: b", "name: b, kind: dense"],
         "features.a.renamed_from: names a feature that is still there, got 'b'; drop it, or call"),
        ("", ["names: [a, b], kind: dense, renamed_from: c"],
         "features.b.renamed_from: feature 'a' was called so too, got 'c'; keep one"),
        ("tables: {t: {renamed_from: u}, u: {}}",
         ["name: a, kind: categorical, table: t", "name: b, kind: categorical, table: u"],
         "tables.t.renamed_from: names a table that is still there, got 'u'; drop it, or call"),
        ("tables: {t: {scheme: decoupled, attention: {renamed_from: u}}}",
         ["name: a, kind: categorical, table: t"],
         "tables.t.attention: a role has no name of its own, got renamed_from; write it beside"),
    ],
)  # fmt: skip
def test_parts_that_contradict_each_other(top, features, message):
    lines = "\n".join(f"  - {{{feature}}}" for feature in features)
    found = mistakes(f"{HEAD}{top}\nfeatures:\n{lines}\n")
    assert any(mistake.partition(": ")[2].startswith(message) for mistake in found), found


def test_merged_mappings_and_dates():
    text = f"{HEAD}{LOG}\nsplit: {{kind: temporal, val_from: 2020-01-01, test_from: 2020-02-01}}\n"
    text += "features:\n  - &a {name: a, kind: categorical, dim: 3}\n  - {<<: *a, name: b}\n"
    found = parse_feature_set(text, name="f.yaml")
    assert found.feature("b").dim == 3
    assert found.split == TemporalSplit(
        kind="temporal", val_from="2020-01-01", test_from="2020-02-01"
    )


SCALARS = st.sampled_from([None, True, -1, 0, 2.5, float("inf"), "", "a", "item_id", "x y (", "é"])
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
)


def explained(text: str) -> tuple[str, ...]:
    """Mistakes of a file that may have none."""
    try:
        parse_feature_set(text, name="f.yaml")
    except FeatureConfigError as error:
        return error.mistakes
    return ()


def places(value, path=()) -> list[tuple]:
    """Paths of all values inside nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    inner = [(*path, key) for key, _ in items]
    return inner + [
        deeper
        for place in inner
        if isinstance(value[place[-1]], dict | list)
        for deeper in places(value[place[-1]], place)
    ]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_broken_file_is_explained(data):
    content = YAML(typ="safe", pure=True).load(FULL)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, key = data.draw(st.sampled_from(places(content)))
        reduce(getitem, path, content)[key] = data.draw(JUNK)
    for mistake in explained(json.dumps(content, ensure_ascii=False)):
        assert re.match(r"f\.yaml:1: \S", mistake)
        assert not re.search("Input should|input should|union", mistake)


def test_unreadable_files(tmp_path):
    with pytest.raises(FeatureConfigError, match="cannot be read: No such file"):
        load_feature_set(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes("sources: é".encode("latin-1"))
    with pytest.raises(FeatureConfigError, match="is no UTF-8 text"):
        load_feature_set(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("12.5MB", 12_500_000), ("800 kB", 800_000), ("2 GiB", 2**31), (17, 17), ("1_000", 1000),
     ("0.5KiB", 512), ("9007199254740993", 9007199254740993)],
)  # fmt: skip
def test_sizes(text, num_bytes):
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "MB", "-3", "3 XB", 0, "1e3", "0.1B"])
def test_texts_that_are_no_sizes(text):
    with pytest.raises(ValueError, match="no size in bytes"):
        parse_bytes(text)


def test_sizes_are_shown_with_three_digits():
    assert [format_bytes(n) for n in (5, 1640, 1_638_360)] == ["5 B", "1.64 kB", "1.64 MB"]
