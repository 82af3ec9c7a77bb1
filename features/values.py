"""Raw columns as canonical values: the width of a number or the kind of text never matters."""

from __future__ import annotations

import polars as pl

from features.columns import entity_column, time_column
from features.spec import (
    Bucketized,
    Categorical,
    ColumnFeature,
    Dense,
    Feature,
    FeatureSet,
    Sequence,
    Vector,
)
from features.spec_base import Scalar
from features.sql import parse_sql


def raw(feature: ColumnFeature) -> pl.Expr:
    """The feature's raw value."""
    if feature.expr is not None:
        return parse_sql(feature.expr)
    return pl.col(feature.source_column)


def raw_types(feature_set: FeatureSet, frame: pl.LazyFrame) -> dict[str, pl.DataType]:
    """Type of every column feature's raw value; reads no data.

    Also of `times`, by `time_column`, and of the raw columns of user, item and time, by
    `entity_column`.
    """
    values = {f.name: raw(f) for f in feature_set.of_kind(ColumnFeature)}
    values |= {entity_column(r): pl.col(c) for r, c in feature_set.entity.columns.items()}
    values |= {time_column(s.name): raw_times(s) for s in timed_sequences(feature_set)}
    return dict(frame.select(v.alias(name) for name, v in values.items()).collect_schema())


def timed_sequences(feature_set: FeatureSet) -> tuple[Sequence, ...]:
    """Sequences that have the times of their events."""
    return tuple(s for s in feature_set.of_kind(Sequence) if s.times is not None)


def raw_times(sequence: Sequence) -> pl.Expr:
    """The raw `times` of a sequence that has them."""
    assert sequence.times is not None, "a sequence with times"
    return parse_sql(sequence.times)


def value_type(dtype: pl.DataType) -> pl.DataType | None:
    """The canonical type of a categorical value: Int64, UInt64, String, Boolean; else None."""
    if dtype == pl.UInt64:
        return pl.UInt64()
    if dtype.is_integer():
        return pl.Int64()
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return pl.String()
    if dtype == pl.Boolean:
        return pl.Boolean()
    return None


def inner_type(dtype: pl.DataType) -> pl.DataType:
    """The type of one value."""
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return inner() if isinstance(inner, type) else inner


def canonical_type(feature: Categorical, dtype: pl.DataType) -> pl.DataType | None:
    """The type of the feature's values, None where the column's type does not fit."""
    return pl.String() if feature.split is not None else value_type(inner_type(dtype))


def is_multi_valued(feature: Categorical, dtype: pl.DataType) -> bool:
    """Whether a row holds a list of values."""
    return feature.split is not None or _is_list(dtype)


def same_kind(first: pl.DataType, second: pl.DataType) -> bool:
    """Whether two value types hold the same kind of values; numbers of any width do."""
    return first == second or (first.is_integer() and second.is_integer())


def categorical_values(feature: Categorical, dtype: pl.DataType) -> pl.Expr:
    """Canonical values, with `fill` in place of nulls; a list where there may be several.

    A null list has no value; so has an empty text between separators.
    """
    value = raw(feature)
    canonical = canonical_type(feature, dtype)
    assert canonical is not None, "types are checked before"
    if feature.split is not None:
        pieces = value.cast(pl.String).str.split(feature.split)
        value = pieces.list.filter(pl.element() != "")
    fill = None if feature.fill is None else pl.lit(feature.fill, dtype=canonical)
    if not is_multi_valued(feature, dtype):
        value = value.cast(canonical)
        return value if fill is None else value.fill_null(fill)
    if isinstance(dtype, pl.Array):
        value = value.arr.to_list()
    value = value.cast(pl.List(canonical))
    if fill is None:
        return value.fill_null(pl.lit([], dtype=pl.List(canonical)))
    filled_list = pl.lit([feature.fill], dtype=pl.List(canonical))
    return value.fill_null(filled_list).list.eval(pl.element().fill_null(fill))


def type_problem(feature: Feature, dtype: pl.DataType) -> str | None:
    """Why a feature cannot be made of a column of this type, or None."""
    match feature:
        case Categorical():
            return _categorical_problem(feature, dtype)
        case Dense() | Bucketized() if not (dtype.is_numeric() or dtype == pl.Boolean):
            return f"must be a number or boolean, got type {dtype}"
        case Vector() if not (_is_list(dtype) and inner_type(dtype).is_numeric()):
            return f"must be a list of numbers, got type {dtype}"
        case Vector() if isinstance(dtype, pl.Array) and dtype.size != feature.size:
            return f"must have {feature.size} numbers, got {dtype.size}; set `size: {dtype.size}`"
    return None


def _categorical_problem(feature: Categorical, dtype: pl.DataType) -> str | None:
    inner = inner_type(dtype)
    canonical = value_type(inner)
    if canonical is None:
        remedy = "; use kind bucketized, or cast it in expr" if inner.is_float() else ""
        return f"must be whole numbers, text or booleans, got type {dtype}{remedy}"
    if feature.split is not None and dtype not in (pl.String, pl.Categorical, pl.Enum):
        return f"split is for text, got type {dtype}; drop `split`"
    if feature.encoding.kind == "identity" and not canonical.is_integer():
        return f"encoding identity needs whole numbers, got type {dtype}; use vocab or hash"
    if feature.fill is not None and not _fits(feature.fill, canonical):
        return f"fill must be of the column's type {dtype}, got {feature.fill!r}"
    return None


def _fits(fill: Scalar, canonical: pl.DataType) -> bool:
    if isinstance(fill, bool):
        return canonical == pl.Boolean
    if isinstance(fill, int):
        return canonical.is_integer() and (fill >= 0 or canonical != pl.UInt64)
    return isinstance(fill, str) and canonical == pl.String


def _is_list(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.List | pl.Array)
