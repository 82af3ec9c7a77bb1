from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.edits.continuing import continue_schema
from features.edits.expiry import expired_values, parse_span
from features.errors import DataError, FeatureConfigError
from features.fit import fit_schema

TIMED = "entity: {time: t}"
START = datetime(2026, 1, 1)


def test_spans():
    assert parse_span("90d") == timedelta(days=90)
    assert parse_span(" 12 h ") == timedelta(hours=12)


@pytest.mark.parametrize("text", ["", "90", "d", "0d", "1w", "-3d", "1.5d", "9" * 20 + "d"])
def test_what_is_no_span(text):
    with pytest.raises(FeatureConfigError, match=r"^--expire: "):
        parse_span(text)


def at(*hours):
    return [START + timedelta(hours=h) for h in hours]


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 60),
            st.sampled_from(["a", "é", "日本", ""]),
            st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
        ),
        min_size=1,
    ),
    hours=st.integers(1, 70),
)
@settings(max_examples=60, deadline=None)
def test_what_was_not_seen_lately(feature_file, events, rows, hours):
    feature_set = feature_file(
        "name: a, kind: categorical", "name: tags, kind: categorical",
        "name: b, kind: categorical, like: tags, column: a", top=TIMED,
    )  # fmt: skip
    times, values, tags = (list(column) for column in zip(*rows, strict=True))
    frame = events(
        {"t": at(*times), "a": values, "tags": tags}, schema={"tags": pl.List(pl.String)}
    )
    schema = fit_schema(feature_set, frame)
    span = timedelta(hours=hours)
    if max(times) - min(times) < hours:
        with pytest.raises(DataError, match="the data does not reach back that far, got events"):
            expired_values(schema, frame, fitted=schema, older_than=span)
        return
    found = expired_values(schema, frame, fitted=schema, older_than=span)
    recent = [row for row in rows if row[0] >= max(times) - hours]
    seen = {row[1] for row in recent}
    seen_tags = seen | {tag for row in recent for tag in row[2]}
    assert set(found) == {"a", "tags"}
    assert set(found["a"]) == set(values) - seen
    known = set(schema.vocabularies["tags"].values)
    assert set(found["tags"]) == known - seen_tags
    continued = continue_schema(schema, feature_set, fitted=schema, expired=found)
    assert set(continued.vocabularies["a"].values) == seen & set(values)


def test_what_cannot_expire(feature_file, events):
    day = timedelta(days=1)
    line = "name: a, kind: categorical"
    frame = events({"t": [1, 200_000], "a": ["x", "y"]})
    for top, words in (("", "got no entity.time"), (TIMED, "without a unit; set entity.time.unit")):
        schema = fit_schema(feature_file(line, top=top), frame)
        with pytest.raises(FeatureConfigError, match=words):
            expired_values(schema, frame, fitted=schema, older_than=day)
    schema = fit_schema(feature_file(line, top=TIMED), frame)
    dated = events({"t": at(0, 40), "a": [1, 2]})
    with pytest.raises(
        DataError, match=r"features\.a \(column 'a'\): must hold values of type Str"
    ):
        expired_values(schema, dated, fitted=schema, older_than=day)
    ahead = events({"t": [*at(0), datetime.now() + timedelta(days=3)], "a": ["x", "y"]})
    with pytest.raises(DataError, match="the latest event lies in the future, got 2"):
        expired_values(schema, ahead, fitted=schema, older_than=day)
    nothing = events({"t": at(0), "a": ["x"]}).head(0)
    with pytest.raises(DataError, match="there is no event to count from"):
        expired_values(schema, nothing, fitted=schema, older_than=day)


@pytest.mark.parametrize("scheme", ["full", "hash, rows: 7"])
@pytest.mark.parametrize(
    ("known", "log", "expired", "then"),
    [
        # b left earlier, d is new and old at once; the log still has both.
        (["a", "c"], [("b", 0), ("d", 0), ("c", 0), ("e", 60), ("a", 60)], "bcd", "ae"),
        ([1, 3], [(2, 0), (2**63, 0), (3, 0), (5, 60), (1, 60)], [2, 3, 2**63], [1, 5]),
    ],
    ids=["text", "large numbers"],
)
def test_what_was_not_seen_lately_does_not_come(
    feature_file, events, scheme, known, log, expired, then
):
    top = f"{TIMED}\ntables: {{t: {{scheme: {scheme}}}}}"
    feature_set = feature_file("name: a, kind: categorical, table: t", top=top)
    values, hours = (list(column) for column in zip(*log, strict=True))
    dtype = pl.String if isinstance(values[0], str) else pl.UInt64
    schema = fit_schema(feature_set, events({"t": at(*range(len(known))), "a": known}))
    frame = events({"t": at(*hours), "a": pl.Series(values, dtype=dtype)})
    fitted = fit_schema(feature_set, frame)
    continued = schema
    for _ in range(2):
        found = expired_values(continued, frame, fitted=fitted, older_than=timedelta(hours=12))
        assert set(expired) >= set(found["a"]) >= set(expired) - set(known)
        before = continued
        continued = continue_schema(continued, feature_set, fitted=fitted, expired=found)
        stayed = [v for v in known if scheme != "full" and v in list(expired)]
        assert sorted(continued.vocabularies["a"].values) == sorted([*then, *stayed])
    assert continued.fingerprint() == before.fingerprint()
