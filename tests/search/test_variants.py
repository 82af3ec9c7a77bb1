import pytest

from features.errors import FeatureConfigError, RunConfigError
from features.load import parse_feature_set
from recsys.search.variants import Variant, check_budgets, feature_file

FILE = """# A log.
sources: {events: events.parquet}
label: {name: click}
tables:
  shared: {scheme: unified, rows: 100, dim: 8}   # most of it
  other: {scheme: hash, rows: 50}
features:
  - {name: user, kind: categorical, table: shared}
  - {name: item, kind: categorical, table: shared}
  - {name: brand, kind: categorical, table: other}
"""


def stored_otherwise(text, *, budget="10kB", tables=None):
    written = feature_file(
        FILE, name="f.yaml", variant=Variant.parse(text), budget=budget, tables=tables
    )
    return written, parse_feature_set(written, name="f.yaml").tables


def test_all_tables_take_the_scheme_and_keep_their_width():
    written, tables = stored_otherwise("pq:num_chunks=2,multiplexed=false")
    assert written.startswith("# A log.")
    assert [t.scheme for t in tables.values()] == ["pq", "pq"]
    assert (tables["shared"].dim, tables["other"].dim) == (8, None)
    assert {(t.budget, t.rows, t.num_chunks, t.multiplexed) for t in tables.values()} == {
        ("10kB", None, 2, False)
    }


def test_some_tables_and_one_without_a_size():
    _, tables = stored_otherwise("full", budget=None, tables=["other"])
    assert tables["other"].scheme == "full"
    assert (tables["shared"].scheme, tables["shared"].rows) == ("unified", 100)


@pytest.mark.parametrize(("text", "has_size"), [("quantized:bits=16", False), ("robe", True)])
def test_a_scheme_without_a_size_takes_no_budget(text, has_size):
    assert Variant.parse(text).has_size == has_size
    _, tables = stored_otherwise(text, budget="10kB" if has_size else None)
    assert tables["shared"].scheme == text.partition(":")[0]


def test_decoupled_tables_stay_as_they_are():
    decoupled = "{scheme: decoupled, attention: {dim: 4}}"
    text = FILE.replace("{scheme: hash, rows: 50}", decoupled)
    pq = Variant.parse("pq")
    written = feature_file(text, name="f.yaml", variant=pq, budget="1kB", tables=None)
    tables = parse_feature_set(written, name="f.yaml").tables
    assert (tables["shared"].scheme, tables["other"].scheme) == ("pq", "decoupled")
    with pytest.raises(RunConfigError, match="stored by one scheme, got 'other'; allowed shared"):
        feature_file(text, name="f.yaml", variant=pq, budget="1kB", tables=["other"])


@pytest.mark.parametrize("text", ["", ":a=1", "pq:", "pq:num_chunks", "pq:=3", "pq:a=1,"])
def test_what_is_no_variant(text):
    if text == "pq:":
        assert Variant.parse(text).options == {}
        return
    with pytest.raises(RunConfigError, match="--schemes: is no scheme with options, got"):
        Variant.parse(text)


def test_mistakes_name_the_variant_or_the_table():
    with pytest.raises(FeatureConfigError, match=r"pq:chunks=2: .*tables.shared.chunks: unknown"):
        stored_otherwise("pq:chunks=2")
    with pytest.raises(FeatureConfigError, match=r"unifed: .*scheme"):
        stored_otherwise("unifed")
    with pytest.raises(RunConfigError, match="got 'sharde'; allowed shared, other; did you mean"):
        stored_otherwise("pq", tables=["sharde"])
    without = FILE[: FILE.index("tables:")] + "features: [{name: user, kind: categorical}]\n"
    with pytest.raises(RunConfigError, match=r"f.yaml: names no table that could be stored"):
        feature_file(without, name="f.yaml", variant=Variant.parse("pq"), budget="1kB", tables=None)
    with pytest.raises(RunConfigError) as caught:
        check_budgets(["1kB", "much", "0"])
    assert len(caught.value.mistakes) == 2
