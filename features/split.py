"""Which events train, validate and test."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from itertools import accumulate

import polars as pl

from features.checks import log_name, reading
from features.columns import ROW, SPLIT, SPLITS
from features.errors import DataError
from features.spec import FeatureSet
from features.spec_base import Scalar
from features.split_spec import ColumnSplit, LeaveOneOutSplit, RandomSplit, TemporalSplit
from features.times import TICKS_PER_S, utc_naive


def assign_split(feature_set: FeatureSet, frame: pl.LazyFrame) -> pl.LazyFrame:
    """Add the column `_split`: train, val, test, or null for an event of none.

    Temporal fractions and leave-one-out read the time and user columns once, here.

    Args:
        feature_set: Its `split` and `entity` say how.
        frame: From `features.sources.scan_events`; its order stays.

    Raises:
        DataError: the instants of a temporal split do not fit the time column, or these columns
            cannot be read.
    """
    with reading(log_name(feature_set)):
        match feature_set.split:
            case RandomSplit() as split:
                return frame.with_columns(_random(split))
            case TemporalSplit() as split:
                return frame.with_columns(_temporal(split, feature_set=feature_set, frame=frame))
            case LeaveOneOutSplit() as split:
                return _leave_one_out(split, feature_set=feature_set, frame=frame)
            case ColumnSplit() as split:
                return frame.with_columns(_column(split, frame=frame))


def uniform(row: pl.Expr, *, seed: int) -> pl.Expr:
    """A number in [0, 1) per row number: splitmix64 of row and seed, upper 53 bits.

    Source: Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators (2014),
    https://doi.org/10.1145/2660193.2660195; the seed's own hash is the generator's state.
    """
    state = pl.lit(_splitmix64_int(seed % 2**64), dtype=pl.UInt64)
    bits = _splitmix64(row.cast(pl.UInt64) * _lit(_GAMMA) + state)
    return (bits // _lit(2**11)).cast(pl.Float64) * 2.0**-53


_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def _lit(value: int) -> pl.Expr:
    return pl.lit(value, dtype=pl.UInt64)


def _splitmix64(state: pl.Expr) -> pl.Expr:
    value = state + _lit(_GAMMA)
    for shift, factor in _MIX:
        value = (value ^ (value // _lit(2**shift))) * _lit(factor)
    return value


def _splitmix64_int(state: int) -> int:
    value = (state + _GAMMA) % 2**64
    for shift, factor in _MIX:
        value = ((value ^ (value >> shift)) * factor) % 2**64
    return value


def _random(split: RandomSplit) -> pl.Expr:
    return _by_cuts(uniform(pl.col(ROW), seed=split.seed), _cuts(split.fractions))


def _cuts(fractions: tuple[float, float, float]) -> tuple[float, float]:
    """Where validation and test start on the scale 0 to 1; a share of zero is exactly empty."""
    val, test = list(accumulate(fractions))[:2]
    if fractions[2] == 0:
        test = math.inf
    if fractions[1] == 0:
        val = test
    return val, test


def _by_cuts(position: pl.Expr, cuts: Iterable[pl.Expr | float]) -> pl.Expr:
    """Train below the first cut, test from the second on; null where the position is."""
    is_val, is_test = (position >= cut for cut in cuts)
    train, val, test = (pl.lit(name) for name in SPLITS)
    return (
        pl.when(position.is_null())
        .then(None)
        .when(is_test)
        .then(test)
        .when(is_val)
        .then(val)
        .otherwise(train)
        .alias(SPLIT)
    )


def _temporal(split: TemporalSplit, *, feature_set: FeatureSet, frame: pl.LazyFrame) -> pl.Expr:
    time = feature_set.entity.time
    assert time is not None, "checked when loading"
    instant = pl.col(time.column)
    if split.fractions is None:
        dtype = frame.select(instant).collect_schema()[time.column]
        starts = (("val_from", split.val_from), ("test_from", split.test_from))
        cuts = [_instant(key, start, dtype=dtype, unit=time.unit) for key, start in starts]
        return _by_cuts(instant, cuts)
    counts = (
        frame.select(instant.alias("time"))
        .drop_nulls()
        .group_by("time")
        .len()
        .collect(engine="streaming")
        .sort("time")
        .with_columns(earlier=pl.col("len").cum_sum() - pl.col("len"))
    )
    num_events = int(counts["len"].sum())
    after_all = pl.lit(None, dtype=counts.schema["time"])
    cuts = []
    for fraction in _cuts(split.fractions):
        later = counts.filter(pl.col("earlier") >= round(fraction * num_events, 6))["time"]
        cuts.append(pl.lit(later[0], dtype=later.dtype) if len(later) else after_all)
    # A missing cut compares as null, which `when` takes as false: no event lies behind it.
    return _by_cuts(instant, cuts)


def _instant(key: str, start: str | int | None, *, dtype: pl.DataType, unit: str | None) -> pl.Expr:
    """A boundary in the type of the time column."""
    is_datetime = isinstance(dtype, pl.Datetime)
    if isinstance(start, str) and is_datetime:
        return pl.lit(utc_naive(datetime.fromisoformat(start)), dtype=dtype)
    if isinstance(start, int) and not is_datetime:
        return pl.lit(start)
    if isinstance(start, int) and unit is not None:
        return pl.lit(start * 10**6 // TICKS_PER_S[unit], dtype=pl.Int64).cast(dtype)
    needed = "an ISO date or datetime" if is_datetime else "a number"
    raise DataError(
        f"split.{key}: must be {needed}, as the time column is of type {dtype}, got {start!r}"
    )


def _leave_one_out(
    split: LeaveOneOutSplit, *, feature_set: FeatureSet, frame: pl.LazyFrame
) -> pl.LazyFrame:
    entity = feature_set.entity
    assert entity.user is not None and entity.time is not None, "checked when loading"  # noqa: PT018
    last_rows = (
        frame.select(user=entity.user, time=entity.time.column, row=ROW)
        .group_by("user")
        .agg(
            pl.len(),
            last=pl.col("row").sort_by("time", "row").tail(2),
        )
        .filter(pl.col("len") >= split.min_events)
        .collect(engine="streaming")
    )
    test = last_rows.select(pl.col("last").list.get(-1).alias(ROW))
    val = last_rows.filter(pl.col("len") > 1).select(pl.col("last").list.get(0).alias(ROW))
    held_out = pl.concat(
        [
            val.with_columns(pl.lit("val").alias(SPLIT)),
            test.with_columns(pl.lit("test").alias(SPLIT)),
        ]
    )
    return frame.join(held_out.lazy(), on=ROW, how="left", maintain_order="left").with_columns(
        pl.col(SPLIT).fill_null("train")
    )


def _column(split: ColumnSplit, *, frame: pl.LazyFrame) -> pl.Expr:
    column = pl.col(split.column)
    dtype = frame.select(column).collect_schema()[split.column]
    result = pl.lit(None, dtype=pl.String)
    for name in SPLITS:
        result = (
            pl.when(_is_named(column, getattr(split, name), dtype=dtype))
            .then(pl.lit(name))
            .otherwise(result)
        )
    return result.alias(SPLIT)


def _is_named(column: pl.Expr, values: tuple[Scalar, ...], *, dtype: pl.DataType) -> pl.Expr:
    """Whether the column has one of the values: as a number where both are, else by its text."""
    texts = column.cast(pl.String)
    numbers = [v for v in values if dtype.is_numeric() and not isinstance(v, bool | str)]
    if dtype.is_integer():  # a float has not the digits of every whole number
        values += tuple(int(v) for v in numbers if v == int(v))
        numbers = []
    is_named = texts.is_in([_text_of(value) for value in values])
    if not numbers:
        return is_named
    return is_named | column.cast(pl.Float64).is_in([float(v) for v in numbers])


def _text_of(value: Scalar) -> str:
    """The text that a column's value has after a cast."""
    return str(value).lower() if isinstance(value, bool) else str(value)
