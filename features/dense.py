"""Numbers that enter the model as they are: fill, transform, clip, standardise, in this order."""

from __future__ import annotations

import math

import polars as pl

from features.schema import Moments
from features.spec import Bucketized, Dense
from features.values import raw


def number(feature: Dense | Bucketized) -> pl.Expr:
    """The raw number, null where it is null or NaN."""
    value = raw(feature).cast(pl.Float64)
    return value.fill_nan(None)


def filled(feature: Dense | Bucketized, moments: Moments | None = None) -> pl.Expr:
    """The raw number with `fill`; `fill: mean` only where the moments are given."""
    value = number(feature)
    if feature.fill is None:
        return value
    if feature.fill == "mean":
        return value if moments is None else value.fill_null(moments.raw_mean)
    return value.fill_null(float(feature.fill))


def clipped(feature: Dense, value: pl.Expr) -> pl.Expr:
    """A filled number after transform and clip."""
    value = transformed(feature, value)
    return value if feature.clip is None else value.clip(*feature.clip)


def transformed(feature: Dense, value: pl.Expr) -> pl.Expr:
    """A filled number after transform."""
    match feature.transform:
        case None:
            return value
        case "log1p":
            return value.log1p()
        case "signed_log1p":
            return value.sign() * value.abs().log1p()
        case "sqrt":
            return value.sqrt()


def transformed_number(feature: Dense, number: float) -> float | None:
    """The transform of one number, None where it has none."""
    value = pl.select(transformed(feature, pl.lit(number, dtype=pl.Float64))).item()
    return value if math.isfinite(value) else None


def encoded(feature: Dense, moments: Moments) -> pl.Expr:
    """The number that enters the model."""
    value = clipped(feature, filled(feature, moments))
    if feature.standardize:
        value = (value - moments.mean) / moments.std
    return value.cast(pl.Float32)
