"""What every value must be; fitting checks all events by it, scoring every chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import polars as pl

from features.columns import ROW, SPLIT, entity_column, time_column
from features.dense import clipped, filled, number
from features.errors import DataError
from features.raw_checks import described
from features.spec import (
    Bucketized,
    Categorical,
    ColumnFeature,
    Dense,
    Encoding,
    FeatureSet,
    IdentityEncoding,
    Label,
    Vector,
)
from features.spec import Sequence as SequenceFeature
from features.split_spec import ColumnSplit
from features.sql import parse_sql
from features.times import as_seconds
from features.values import (
    categorical_values,
    is_multi_valued,
    raw,
    raw_times,
    timed_sequences,
)

_LAST_SECOND = 10**11  # in the year 5138; milliseconds are larger from March 1973 on
FILL = "set `fill` in the feature file, or mend the data"


@dataclass(frozen=True)
class Check:
    """A rule on single rows.

    Attributes:
        where: Feature and column, as in messages.
        bad: True in rows that break the rule; never null.
        raw: What to show of such a row.
        problem: What is wrong.
        remedy: What to do.
    """

    where: str
    bad: pl.Expr
    raw: pl.Expr
    problem: str
    remedy: str


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn what polars raises while it reads and computes raw values into a `DataError`.

    Args:
        where: The data, as in messages.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{where}: an expression or file cannot be read: {reason}") from None


def log_name(feature_set: FeatureSet) -> str:
    """The files of the event log, as messages name them."""
    path = feature_set.events.path
    return path if isinstance(path, str) else ", ".join(path)


def value_checks(
    feature_set: FeatureSet, types: dict[str, pl.DataType], *, with_labels: bool
) -> list[Check]:
    """Rules of entity columns, features and times and, if asked, of labels and weight.

    Args:
        feature_set: What is expected.
        types: From `features.values.raw_types`.
        with_labels: Also what only training and evaluation read.
    """
    found = list(_entity(feature_set, types))
    for feature in feature_set.of_kind(ColumnFeature):
        where = f"features.{feature.name} ({described(feature)})"
        match feature:
            case Categorical():
                encoding = resolved_encoding(feature_set, feature)
                found += _categorical(where, feature, types[feature.name], encoding)
            case Dense():
                found += [*_number(where, feature), *_transform(where, feature)]
            case Bucketized():
                found += _number(where, feature)
            case Vector():
                found += _vector(where, feature, types[feature.name])
    for sequence in timed_sequences(feature_set):
        found += _times(sequence, types[time_column(sequence.name)])
    if with_labels:
        for label in feature_set.label:
            found += _label(label)
        found += _weight(feature_set)
    return found


def counted(checks: Sequence[Check]) -> list[pl.Expr]:
    """Aggregates for one pass over a frame with `_row`: bad rows and the first of each check."""
    return [
        expression
        for i, check in enumerate(checks)
        for expression in (
            check.bad.sum().cast(pl.Int64).alias(f"bad_{i}"),
            pl.col(ROW).filter(check.bad).min().alias(f"first_{i}"),
        )
    ]


def broken(
    checks: Sequence[Check], counts: dict[str, int], *, frame: pl.LazyFrame, where: str
) -> list[str]:
    """A message per broken rule.

    Args:
        checks: The rules.
        counts: One row of `counted`, by name.
        frame: What was counted; read again for the raw values of bad rows.
        where: The data, as in messages.
    """
    messages = []
    for i, check in enumerate(checks):
        if not counts[f"bad_{i}"]:
            continue
        row = counts[f"first_{i}"]
        value = (frame.filter(pl.col(ROW) == row).select(check.raw.alias("raw")).head(1).collect())[
            "raw"
        ].to_list()[0]
        messages.append(
            f"{where}: {check.where}: {check.problem} in {counts[f'bad_{i}']} rows, first in row "
            f"{row}, got {value!r}; {check.remedy}"
        )
    return messages


def resolved_encoding(feature_set: FeatureSet, feature: Categorical) -> Encoding:
    """The encoding of a feature, or of the one it is like."""
    return feature_set.feature(feature.like).encoding if feature.like else feature.encoding


def _entity(feature_set: FeatureSet, types: dict[str, pl.DataType]) -> Iterator[Check]:
    for role, column in feature_set.entity.columns.items():
        value = pl.col(column)
        is_missing, problem = _missing(value, types[entity_column(role)])
        yield Check(
            where=f"entity.{role} (column {column!r})",
            bad=is_missing,
            raw=value,
            problem=problem,
            remedy="drop such events with sources.events.where",
        )
        if role == "time" and isinstance(types[entity_column(role)], pl.Datetime):
            seconds = value.dt.epoch("s")
            yield Check(
                where=f"entity.time (column {column!r})",
                bad=(seconds.abs() >= _LAST_SECOND).fill_null(False),
                raw=value.dt.epoch("us"),
                problem="instant (in microseconds since 1970) beyond the year 5000",
                remedy="set entity.time.unit to that of its numbers, or mend the data",
            )


def _missing(value: pl.Expr, dtype: pl.DataType) -> tuple[pl.Expr, str]:
    """Whether there is no value, and what to call that."""
    if dtype.is_float():
        return value.is_null() | value.is_nan().fill_null(False), "null or NaN"
    return value.is_null(), "null"


def _categorical(
    where: str, feature: Categorical, dtype: pl.DataType, encoding: object
) -> Iterator[Check]:
    several = is_multi_valued(feature, dtype)
    values = categorical_values(feature, dtype)
    if feature.fill is None:
        is_missing = (
            values.list.eval(pl.element().is_null()).list.any() if several else (values.is_null())
        )
        problem = "null among the values" if several else "null"
        yield Check(where, is_missing.fill_null(False), raw(feature), problem, FILL)
    if isinstance(encoding, IdentityEncoding):
        element = pl.element() if several else values
        outside = (element < 0) | (element >= encoding.size)
        bad = values.list.eval(outside).list.any() if several else outside
        yield Check(
            where,
            bad.fill_null(False),
            raw(feature),
            f"id outside 0 ... {encoding.size - 1}",
            "raise encoding.size, or use encoding vocab",
        )


def _number(where: str, feature: Dense | Bucketized) -> Iterator[Check]:
    value = number(feature)
    if feature.fill is None:
        yield Check(where, value.is_null(), raw(feature), "null or NaN", FILL)
    yield Check(
        where,
        value.is_infinite().fill_null(False),
        raw(feature),
        "infinite number",
        "mend the data, or cut it off in expr",
    )


def _transform(where: str, feature: Dense) -> Iterator[Check]:
    """Numbers that have no transform, or do not fit 32 bits after it."""
    value = filled(feature)
    result = clipped(feature, value).cast(pl.Float32)
    what = (
        "number too large for 32 bits"
        if feature.transform is None
        else (f"number without {feature.transform}")
    )
    yield Check(
        where,
        (value.is_finite() & ~result.is_finite()).fill_null(False),
        raw(feature),
        what,
        "take another transform, or cut it off in expr",
    )


def vector_values(feature: Vector, dtype: pl.DataType) -> pl.Expr:
    """A vector feature as a list of 32-bit numbers."""
    value = raw(feature)
    if isinstance(dtype, pl.Array):
        value = value.arr.to_list()
    return value.cast(pl.List(pl.Float32))


def _vector(where: str, feature: Vector, dtype: pl.DataType) -> Iterator[Check]:
    value = vector_values(feature, dtype)
    wrong_size = value.list.len() != feature.size
    yield Check(where, value.is_null(), raw(feature), "null", "mend the data")
    yield Check(
        where,
        wrong_size.fill_null(False),
        raw(feature),
        f"list that has not {feature.size} numbers",
        "set `size`, or mend the data",
    )
    yield Check(
        where,
        (~value.list.eval(pl.element().is_finite().fill_null(False)).list.all()).fill_null(False),
        raw(feature),
        "null, NaN or infinite number in the list",
        "mend the data",
    )


def _times(sequence: SequenceFeature, dtype: pl.DataType) -> Iterator[Check]:
    value = raw_times(sequence)
    seconds = as_seconds(value, dtype)
    where = f"features.{sequence.name}.times (expr {sequence.times!r})"
    is_missing, problem = _missing(value, dtype)
    remedy = "give another time in `times`, or drop such events with sources.events.where"
    yield Check(where, is_missing, value, problem, remedy)
    if dtype.is_numeric():
        is_possible = (seconds > -_LAST_SECOND) & (seconds < _LAST_SECOND)
        yield Check(
            where,
            ~is_missing & ~is_possible.fill_null(False),
            value,
            "number of seconds that is beyond the year 5000",
            "divide milliseconds by 1000 in `times`, or mend the data",
        )


def label_value(label: Label) -> pl.Expr:
    """The label as a number, before `where`."""
    value = parse_sql(label.expr) if label.expr is not None else pl.col(label.name)
    return value.cast(pl.Float64)


def label_holds(label: Label) -> pl.Expr:
    """Whether the event is an example of this label; never null."""
    if label.where is None:
        return pl.lit(True)
    return parse_sql(label.where).fill_null(False)


def _label(label: Label) -> Iterator[Check]:
    value, holds = label_value(label), label_holds(label)
    where = f"label.{label.name} ({f'expr {label.expr!r}' if label.expr else 'column'})"
    remedy = "leave such events out with label.where"
    yield Check(where, holds & value.is_null(), value, "null", remedy)
    wrong = (holds & ~value.is_in([0.0, 1.0])).fill_null(False)
    yield Check(where, wrong, value, "neither 0 nor 1", "give a condition in label.expr")


def _weight(feature_set: FeatureSet) -> Iterator[Check]:
    if feature_set.weight is not None:
        value = parse_sql(feature_set.weight).cast(pl.Float64)
        good = (value.is_finite() & (value >= 0)).fill_null(False)
        where = f"weight (expr {feature_set.weight!r})"
        yield Check(where, ~good, value, "null, negative or no finite number", "mend the data")


def split_checks(feature_set: FeatureSet) -> Iterator[Check]:
    """The rule that a column that says the split says nothing else; needs `_split`."""
    split = feature_set.split
    if isinstance(split, ColumnSplit):
        value = pl.col(split.column)
        allowed: Iterable[object] = (*split.train, *split.val, *split.test)
        yield Check(
            where=f"split (column {split.column!r})",
            bad=pl.col(SPLIT).is_null() & value.is_not_null(),
            raw=value,
            problem="value of no split",
            remedy=f"allowed {', '.join(map(repr, allowed))}; name it in split.train, val or test",
        )
