"""What can be said of raw data without reading it: names and types."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from features.columns import (
    ENTITY_PREFIX,
    KEEP_PREFIX,
    LABEL_PREFIX,
    POSITION,
    ROW,
    SPLIT,
    USER,
    WEIGHT,
)
from features.spec import Categorical, ColumnFeature, FeatureSet, Sequence
from features.sql import parse_sql
from features.times import seconds_problem
from features.values import (
    canonical_type,
    is_multi_valued,
    raw,
    raw_times,
    same_kind,
    timed_sequences,
    type_problem,
)


def reserved_columns(columns: Iterable[str]) -> list[str]:
    """Raw columns whose names encoded data needs for itself."""
    names = {ROW, SPLIT, USER, POSITION, WEIGHT}
    prefixes = (ENTITY_PREFIX, KEEP_PREFIX, LABEL_PREFIX)
    return [column for column in columns if column in names or column.startswith(prefixes)]


def type_mistakes(
    feature_set: FeatureSet, frame: pl.LazyFrame, *, with_labels: bool, is_whole: bool = True
) -> list[str]:
    """Features, labels and conditions whose raw types do not fit; reads no data.

    Args:
        feature_set: What is expected.
        frame: Raw data.
        with_labels: Also labels and weight.
        is_whole: False passes over what reads columns that are not there.
    """
    mistakes: list[str] = []
    no_rows = pl.DataFrame(schema=frame.collect_schema())

    def dtype_of(where: str, expression: pl.Expr) -> pl.DataType | None:
        try:
            return no_rows.select(expression.alias("value"))["value"].dtype
        except pl.exceptions.PolarsError as error:
            if not is_whole and isinstance(error, pl.exceptions.ColumnNotFoundError):
                return None
            reason = str(error).splitlines()[0]
            mistakes.append(f"{where}: cannot be computed from this data ({reason})")
            return None

    types = {}
    for feature in feature_set.of_kind(ColumnFeature):
        where = f"features.{feature.name}"
        dtype = types[feature.name] = dtype_of(where, raw(feature))
        problem = None if dtype is None else type_problem(feature, dtype)
        if problem:
            mistakes.append(f"{where} ({described(feature)}): {problem}")
    mistakes += _unlike(feature_set, types)
    for where, text in _conditions(feature_set, with_labels=with_labels):
        dtype = dtype_of(where, parse_sql(text))
        if dtype is not None and dtype != pl.Boolean:
            mistakes.append(
                f"{where}: must be a condition, true or false, got {text!r} of type {dtype}"
            )
    for sequence in timed_sequences(feature_set):
        where = f"features.{sequence.name}.times"
        dtype = dtype_of(where, raw_times(sequence))
        problem = None if dtype is None else seconds_problem(dtype)
        if problem:
            mistakes.append(f"{where} (expr {sequence.times!r}): {problem}")
    for where, expression in _numbers(feature_set) if with_labels else ():
        dtype = dtype_of(where, expression)
        if dtype is not None and not (dtype.is_numeric() or dtype == pl.Boolean):
            mistakes.append(f"{where}: must be a number or boolean, got type {dtype}")
    for sequence in feature_set.of_kind(Sequence):
        for of in sequence.columns:
            feature, dtype = feature_set.feature(of), types[of]
            is_item = of == feature_set.entity.item and isinstance(feature, Categorical)
            if is_item and dtype and is_multi_valued(feature, dtype):
                mistakes.append(
                    f"features.{sequence.name}.of: an event has one item, got {of!r}, whose column "
                    f"is of type {dtype}; make an event of each item in the data"
                )
    return mistakes


def _unlike(feature_set: FeatureSet, types: dict[str, pl.DataType | None]) -> list[str]:
    """Features whose values cannot be those of the feature they are like."""
    mistakes = []
    for feature in feature_set.of_kind(Categorical):
        own, other = types[feature.name], types.get(feature.like or "")
        if own is not None and other is not None:
            target = feature_set.feature(feature.like)
            first, second = canonical_type(feature, own), canonical_type(target, other)
            if first is not None and second is not None and not same_kind(first, second):
                mistakes.append(
                    f"features.{feature.name}.like: values must be of the type of "
                    f"{feature.like!r}, {other}, got type {own}; cast one in expr"
                )
    return mistakes


def described(feature: ColumnFeature) -> str:
    """Where a feature comes from, for messages."""
    if feature.expr is not None:
        return f"expr {feature.expr!r}"
    return f"column {feature.source_column!r}"


def _conditions(feature_set: FeatureSet, *, with_labels: bool) -> list[tuple[str, str]]:
    found = [("sources.events.where", feature_set.events.where)]
    found += [(f"features.{s.name}.where", s.where) for s in feature_set.of_kind(Sequence)]
    if with_labels:
        found += [(f"label.{label.name}.where", label.where) for label in feature_set.label]
    return [(where, text) for where, text in found if text is not None]


def _numbers(feature_set: FeatureSet) -> list[tuple[str, pl.Expr]]:
    found = [
        (f"label.{label.name}", parse_sql(label.expr) if label.expr else pl.col(label.name))
        for label in feature_set.label
    ]
    if feature_set.weight is not None:
        found.append(("weight", parse_sql(feature_set.weight)))
    return found
