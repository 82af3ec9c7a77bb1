import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.edits.continuing import continue_schema, may_shrink, needing_data
from features.encode import encode
from features.errors import FeatureConfigError
from features.fit import fit_schema
from features.schema import Moments
from features.storage import load_schema, save_schema

TEXTS = st.sampled_from(["a", "b", "é", "日本", "", " a", "A", "ß", "ss", "0", "é"])
NUMBERS = st.integers(-3, 6)
LOGS = st.one_of(
    st.tuples(st.lists(TEXTS, min_size=1), st.lists(TEXTS, min_size=1), st.lists(TEXTS)),
    st.tuples(st.lists(NUMBERS, min_size=1), st.lists(NUMBERS, min_size=1), st.lists(NUMBERS)),
)
RULES = st.tuples(st.integers(1, 3), st.none() | st.integers(1, 6))


def of_rules(min_count, max_size):
    size = "" if max_size is None else f", max_size: {max_size}"
    return f"encoding: {{min_count: {min_count}{size}}}"


def by_hand(old, fitted, *, before, after, expired, may_shrink):
    """Values and counts by a plain loop; `old` and `fitted` are dictionaries in order of ids."""
    known = dict(old)
    if may_shrink:
        known = {v: c for v, c in known.items() if v not in expired}
        if after[0] > before[0]:
            newest = known if fitted is None else fitted
            known = {v: c for v, c in known.items() if newest.get(v, 0) >= after[0]}
    new = {v: c for v, c in (fitted or {}).items() if v not in old and v not in expired}
    counts = {v: (fitted or {}).get(v, c) for v, c in known.items()} | new
    most = after[1] or 10**9
    if may_shrink and most < (before[1] or 10**9):
        rank = {v: place for place, v in enumerate(counts)}
        seen = old if fitted is None else fitted
        best = sorted(counts, key=lambda v: (-seen.get(v, -1), -counts[v], rank[v]))[:most]
        return {v: c for v, c in counts.items() if v in best}
    room = max(len(known), most)
    return dict(list(counts.items())[:room])


@given(
    log=LOGS,
    before=RULES,
    after=RULES,
    has_data=st.booleans(),
    scheme=st.sampled_from(["full", "hash"]),
)
@settings(max_examples=120, deadline=None)
def test_vocabularies_go_on(feature_file, events, log, before, after, has_data, scheme):
    old_log, new_log, expired = log
    rows = ", rows: 7" if scheme == "hash" else ""
    top = f"tables: {{t: {{scheme: {scheme}{rows}}}}}"
    line = "name: a, kind: categorical, table: t, "
    old = fit_schema(feature_file(line + of_rules(*before), top=top), events({"a": old_log}))
    feature_set = feature_file(line + of_rules(*after), top=top)
    fitted = fit_schema(feature_set, events({"a": new_log})) if has_data else None
    is_looser = after[0] < before[0] or (after[1] or 10**9) > (before[1] or 10**9)
    expired = pl.Series(expired, dtype=old.vocabularies["a"].values.dtype)
    if fitted is None and is_looser:
        with pytest.raises(FeatureConfigError, match="lets more values in, got no data; give"):
            continue_schema(old, feature_set, fitted=None)
        return
    found = continue_schema(old, feature_set, fitted=fitted, expired={"a": expired})
    assert may_shrink(feature_set, "a") == (scheme == "full")
    expected = by_hand(
        dict(zip(*vocabulary(old), strict=True)),
        None if fitted is None else dict(zip(*vocabulary(fitted), strict=True)),
        before=before,
        after=after,
        expired=set(expired.to_list()),
        may_shrink=scheme == "full",
    )
    assert vocabulary(found) == (list(expected), list(expected.values()))
    if scheme == "hash":
        known = vocabulary(old)[0]
        assert vocabulary(found)[0][: len(known)] == known
    ids = encode(found, events({"a": new_log}), with_labels=False).collect()["a"].to_list()
    place = {value: i + 1 for i, value in enumerate(expected)}
    assert ids == [place.get(value, 0) for value in new_log]


def vocabulary(schema, name="a"):
    found = schema.vocabularies[name]
    return found.values.to_list(), found.counts.to_list()


@pytest.mark.parametrize(
    ("old", "new", "expected", "dtype"),
    [
        ([2, 2, 5], ["5", "x"], ["5", "x"], pl.String),  # nothing goes on
        (["5", "5", "x"], [5, 2, 2], [2, 5], pl.Int64),
        ([True, False, False], ["a"], ["a"], pl.String),
        (
            pl.Series([2, 2, 5], dtype=pl.Int64),
            pl.Series([7], dtype=pl.UInt64),
            [2, 5, 7],
            pl.Int64,
        ),
        (
            pl.Series([2, 2, 5], dtype=pl.Int64),
            pl.Series([2**63 + 1], dtype=pl.UInt64),
            [2, 5, 2**63 + 1],
            pl.UInt64,
        ),
        (pl.Series([2**63 + 1], dtype=pl.UInt64), [3], [2**63 + 1, 3], pl.UInt64),
        (pl.Series(["b", "a", "b"], dtype=pl.Categorical), ["c", "b"], ["b", "a", "c"], pl.String),
    ],
)
def test_types_of_values(feature_file, events, old, new, expected, dtype):
    feature_set = feature_file("name: a, kind: categorical")
    before, fitted = (fit_schema(feature_set, events({"a": data})) for data in (old, new))
    found = continue_schema(before, feature_set, fitted=fitted).vocabularies["a"]
    assert found.values.to_list() == expected
    assert found.values.dtype == dtype


def test_numbers_of_no_common_type(feature_file, events):
    feature_set = feature_file("name: a, kind: categorical")
    negative = fit_schema(feature_set, events({"a": [-1]}))
    large = fit_schema(feature_set, events({"a": pl.Series([2**63], dtype=pl.UInt64)}))
    with pytest.raises(
        FeatureConfigError, match=r"^features\.a: known and new values have no type"
    ):
        continue_schema(negative, feature_set, fitted=large)


def test_features_that_share_a_vocabulary_and_lists_go_on(feature_file, events):
    features = (
        "name: tags, kind: categorical, fill: none",
        "name: last, kind: categorical, like: tags, fill: none",
    )
    feature_set = feature_file(*features)
    old = fit_schema(feature_set, events({"tags": [["é", "a"], ["é"], []], "last": ["a"] * 3}))
    data = events({"tags": [["b", "a"], None], "last": [None, "é"]})
    fitted = fit_schema(feature_set, data)
    found = continue_schema(old, feature_set, fitted=fitted)
    assert vocabulary(found, "tags") == (["é", "a", "b", "none"], [2, 1, 1, 1])
    ids = encode(found, data, with_labels=False).collect()
    assert ids["tags"].to_list() == [[3, 2], [4]]
    assert ids["last"].to_list() == [4, 1]


OLD = (
    "name: a, kind: categorical",
    "name: q, kind: bucketized, column: n, quantiles: 2",
    "name: d, kind: dense, column: n, standardize: true",
    "name: m, kind: dense, column: n, fill: mean",
)


def test_numbers_go_on_where_their_line_is_the_same(feature_file, events):
    old = fit_schema(feature_file(*OLD), events({"a": ["x"] * 4, "n": [1.0, 2.0, 3.0, 4.0]}))
    new = feature_file(
        "name: b, renamed_from: a, kind: categorical",
        "name: q, kind: bucketized, column: n, quantiles: 2, dim: 3",
        "name: e, renamed_from: d, kind: dense, column: n, standardize: true",
        "name: m, kind: dense, column: n, fill: mean, clip: [0, 5]",
    )
    assert needing_data(old.feature_set, new) == {"m": "its line in the file changed"}
    with pytest.raises(
        FeatureConfigError, match=r"^features\.m: must be fitted, as its line in the"
    ):
        continue_schema(old, new, fitted=None)
    fitted = fit_schema(new, events({"b": ["y", "x"], "n": [10.0, 20.0]}))
    found = continue_schema(old, new, fitted=fitted)
    assert vocabulary(found, "b") == (["x", "y"], [1, 1])
    assert found.boundaries["q"] == old.boundaries["q"] != fitted.boundaries["q"]
    assert found.moments == {"e": old.moments["d"], "m": Moments(5.0, 1.0, 15.0)}


def test_a_feature_of_other_values_is_fitted(feature_file, events):
    old = fit_schema(feature_file("name: a, kind: categorical"), events({"a": ["x", "y"]}))
    for line, data in (
        ("name: a, kind: categorical, column: b", {"b": ["z"]}),
        ("name: a, kind: categorical, expr: upper(a)", {"a": ["z"]}),
        ('name: a, kind: categorical, split: "|"', {"a": ["z"]}),
    ):
        new = feature_file(line)
        assert needing_data(old.feature_set, new) == {"a": "its ids mean other values now"}
        fitted = fit_schema(new, events(data))
        found = continue_schema(old, new, fitted=fitted)
        assert found.vocabularies["a"].values.equals(fitted.vocabularies["a"].values)


def test_what_needs_data_and_what_not(feature_file):
    old = feature_file(*OLD, 'name: l, kind: categorical, split: "|"')
    new = feature_file(
        OLD[0],
        "name: q, kind: bucketized, column: n, boundaries: [1]",
        "name: d, kind: dense, column: n",
        'name: l, kind: categorical, split: "|", encoding: {min_count: 4, max_size: 3}',
        'name: h, kind: categorical, split: "|", column: l, encoding: {kind: hash, size: 5}',
        "name: v, kind: vector, size: 3",
        "name: n1, kind: categorical",
        "name: n2, kind: categorical, encoding: {kind: hash, size: 5}",
        "name: n3, kind: dense",
        "name: n4, kind: bucketized, quantiles: 3",
        "name: n5, kind: categorical, like: n1",
        "name: m, kind: bucketized, quantiles: 3",
    )
    several = "it is new, and data says whether an event may have several values"
    assert needing_data(old, new) == {
        "n1": "it is new",
        "n2": several,
        "n3": "it is new",
        "n4": "it is new",
        "n5": several,
        "m": "it is bucketized now",
    }


def test_tables_of_frequency_have_the_most_frequent_first(feature_file, events):
    line = "name: a, kind: categorical, table: t"
    full = feature_file(line, top="tables: {t: {scheme: full}}")
    mgqe = feature_file(line, top="tables: {t: {scheme: mgqe, rows: 50, dim: 8}}")
    old_log, new_log = ["x", "x", "y"], ["y", "y", "y", "z", "z", "x"]
    old = fit_schema(full, events({"a": old_log}))
    moved = continue_schema(old, mgqe, fitted=fit_schema(mgqe, events({"a": new_log})))
    assert vocabulary(moved) == (["y", "z", "x"], [3, 2, 1])
    # The same values: the table is kept, and with it who was frequent.
    again = continue_schema(moved, mgqe, fitted=fit_schema(mgqe, events({"a": [*"zzzzxy"]})))
    assert vocabulary(again) == (["y", "z", "x"], [1, 4, 1])


def test_a_vocabulary_may_be_in_any_order(feature_file, events, tmp_path):
    feature_set = feature_file("name: a, kind: categorical")
    old = fit_schema(feature_set, events({"a": ["x"]}))
    fitted = fit_schema(feature_set, events({"a": [*"yyx"]}))
    found = continue_schema(old, feature_set, fitted=fitted)
    assert vocabulary(found) == (["x", "y"], [1, 2])
    save_schema(found, tmp_path)
    assert load_schema(tmp_path).decode("a", pl.Series([2, 0, 1])).to_list() == ["y", None, "x"]
    assert found.fingerprint() != fitted.fingerprint()


def test_no_change_changes_nothing(feature_file, events):
    data = events({"a": ["b", "a", "a", "é"], "n": [1.0, 2.0, 3.0, 9.0]})
    feature_set = feature_file(*OLD)
    old = fit_schema(feature_set, data)
    for fitted in (None, fit_schema(feature_set, data)):
        found = continue_schema(old, feature_set, fitted=fitted)
        assert found.fingerprint() == old.fingerprint()
        assert vocabulary(found) == vocabulary(old)


def test_counts_are_the_newest(feature_file, events):
    feature_set = feature_file("name: a, kind: categorical")
    old = fit_schema(feature_set, events({"a": [*"aab"]}))
    found = continue_schema(
        old, feature_set, fitted=fit_schema(feature_set, events({"a": ["b"] * 9}))
    )
    assert vocabulary(found) == (["a", "b"], [2, 9])
