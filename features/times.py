"""Instants: everything that orders events is a UTC datetime without zone, or a plain number.

What models read of them are whole seconds since 1970.
"""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from features.spec import Time

TICKS_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def utc_naive(instant: datetime) -> datetime:
    """The same instant in UTC, without its zone; one without a zone is UTC already."""
    return instant.astimezone(UTC).replace(tzinfo=None) if instant.tzinfo else instant


def time_problem(time: Time, dtype: pl.DataType) -> str | None:
    """Why a column of this type cannot be the time, or None."""
    if time.unit is not None and not dtype.is_numeric():
        return f"unit is for numbers, got a column of type {dtype}; drop `unit`"
    if not (dtype.is_numeric() or _is_date(dtype)):
        return f"must be a number, date or datetime, got type {dtype}; convert it in the data"
    return None


def seconds_problem(dtype: pl.DataType) -> str | None:
    """Why values of this type cannot be seconds, or None."""
    if dtype.is_numeric() or _is_date(dtype):
        return None
    return f"must be seconds since 1970, a date or a datetime, got type {dtype}; convert it"


def as_seconds(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Whole seconds since 1970, UTC, rounded down; null where there is no such number."""
    if _is_date(dtype):
        return value.dt.epoch("s")
    if dtype.is_integer():
        return value.cast(pl.Int64, strict=False)
    return value.cast(pl.Float64).floor().cast(pl.Int64, strict=False)


def as_instant(time: Time, dtype: pl.DataType) -> pl.Expr:
    """The time column in microseconds since 1970, UTC; a number without unit stays as it is."""
    column = pl.col(time.column)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return column.cast(pl.Datetime("us"))
    if dtype == pl.Date:
        return column.cast(pl.Datetime("us"))
    if time.unit is None:
        return column
    if dtype.is_float():
        ticks = (column.cast(pl.Float64) * (10**6 / TICKS_PER_S[time.unit])).round()
        return ticks.cast(pl.Int64, strict=False).cast(pl.Datetime("us"))
    if time.unit == "ns":
        return (column.cast(pl.Int64) // 1000).cast(pl.Datetime("us"))
    return (column.cast(pl.Int64) * (10**6 // TICKS_PER_S[time.unit])).cast(pl.Datetime("us"))


def _is_date(dtype: pl.DataType) -> bool:
    return dtype == pl.Date or isinstance(dtype, pl.Datetime)
