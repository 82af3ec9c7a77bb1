"""`times` of a sequence: what becomes seconds, and what is refused."""

from datetime import date, datetime

import polars as pl
import pytest

from features.columns import time_column
from features.encode import encode, encode_checked
from features.errors import DataError, FeatureConfigError
from features.fit import fit_schema
from features.sources import scan_events

TOP = "entity: {user: u, time: pos}"
SEQUENCE = "name: h, kind: sequence, of: a, max_length: 2"


@pytest.fixture
def timed(feature_file):
    def build(times="t"):
        return feature_file("name: a, kind: categorical", f"{SEQUENCE}, times: '{times}'", top=TOP)

    return build


def log(times):
    size = len(times)
    return {"a": ["x"] * size, "u": [1] * size, "pos": range(size), "t": times}


def said(call, *arguments, **options):
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    return list(caught.value.mistakes)


MOMENTS = [datetime(1969, 12, 31, 23, 59, 58, 500_000), datetime(2020, 1, 1)]


@pytest.mark.parametrize(
    ("column", "times", "expected"),
    [
        (pl.Series([-5, 7], dtype=pl.Int16), "t", [-5, 7]),
        (pl.Series([0, 7], dtype=pl.UInt64), "t", [0, 7]),
        (pl.Series([-1.5, 7.9]), "t", [-2, 7]),
        (pl.Series([-1500, 7900]), "t / 1000", [-2, 7]),
        (pl.Series([None, 7]), "coalesce(t, pos)", [0, 7]),
        (pl.Series(MOMENTS), "t", [-2, 1_577_836_800]),
        (pl.Series(MOMENTS).cast(pl.Datetime("ns")), "t", [-2, 1_577_836_800]),
        (pl.Series(MOMENTS).dt.replace_time_zone("Asia/Tokyo"), "t", [-32_402, 1_577_804_400]),
        (pl.Series([date(1969, 12, 31), date(2020, 1, 1)]), "t", [-86_400, 1_577_836_800]),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, pl.Series) else None,
)
def test_seconds_by_hand(timed, events, column, times, expected):
    frame = events(log(column))
    found = encode(fit_schema(timed(times), frame), frame, with_labels=False).collect()
    assert found[time_column("h")].to_list() == expected
    assert found.schema["h.@time"] == pl.Int64


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1, None, None], "null in 2 rows, first in row 1, got None; give another time in `times`, "
         "or drop such events with sources.events.where"),
        ([datetime(2020, 1, 1), None], "null in 1 rows, first in row 1, got None"),
        ([1.0, float("nan"), None], "null or NaN in 2 rows, first in row 1, got nan"),
        ([1.0, float("inf")], "number of seconds that is beyond the year 5000 in 1 rows, first in "
         "row 1, got inf"),
        ([1, 1_577_836_800_000], "number of seconds that is beyond the year 5000 in 1 rows, first "
         "in row 1, got 1577836800000; divide milliseconds by 1000 in `times`, or mend the data"),
        ([1, -(2**63)], "number of seconds that is beyond the year 5000 in 1 rows"),
        (pl.Series([1, 2**64 - 1], dtype=pl.UInt64), "number of seconds that is beyond the year"),
    ],
)  # fmt: skip
def test_values_that_are_no_time(timed, events, column, message):
    feature_set, frame = timed(), events(log(column))
    [fitted] = said(fit_schema, feature_set, frame)
    assert fitted.startswith(f"events.parquet: features.h.times (expr 't'): {message}"), fitted
    schema = fit_schema(feature_set, events(log(pl.Series(column)[:1])))
    [chunk] = said(encode_checked, schema, frame.collect(), where="part 7", with_labels=False)
    assert chunk == fitted.replace("events.parquet", "part 7")


@pytest.mark.parametrize("column", [["noon"], [True], [[1]]])
def test_types_that_are_no_time(timed, events, column):
    dtype = pl.Series(column).dtype
    assert said(fit_schema, timed(), events(log(column))) == [
        "features.h.times (expr 't'): must be seconds since 1970, a date or a datetime, "
        f"got type {dtype}; convert it"
    ]


def test_the_column_is_read_only_where_it_is_asked_for(feature_file, timed, tmp_path):
    without = feature_file("name: a, kind: categorical", SEQUENCE, top=TOP)
    frame = pl.DataFrame(log([None, 3])).drop("t")
    frame.write_parquet(tmp_path / "events.parquet")
    assert time_column("h") not in scan_events(without, tmp_path).collect_schema()
    [mistake] = said(scan_events, timed(), tmp_path, require_labels=False)
    assert mistake == "features.h.times: no column 't' in events; available a, pos, u"


@pytest.mark.parametrize("times", ["t >", "max(t)", "3"])
def test_expressions_that_are_none(timed, times):
    with pytest.raises(FeatureConfigError, match=r"features\.h\.times: (no valid|looks|reads)"):
        timed(times)


def test_no_feature_can_have_the_name_of_a_time(feature_file):
    with pytest.raises(FeatureConfigError, match=r"no valid name, got '@time'"):
        feature_file("name: '@time', kind: dense")
