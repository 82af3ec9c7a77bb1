"""Values that have not been seen for long, so that their rows can go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import polars as pl

from features.checks import log_name, reading
from features.errors import DataError, FeatureConfigError
from features.raw_checks import described, type_mistakes
from features.schema import FeatureSchema
from features.spec import Categorical, VocabEncoding
from features.values import (
    canonical_type,
    categorical_values,
    is_multi_valued,
    raw_types,
    same_kind,
)

_SPAN = re.compile(r"\s*(\d+)\s*([dh])\s*")
_WHERE = "--expire"
_TIME_ZONES = timedelta(days=1)  # that a log may be ahead of the clock here


def parse_span(text: str) -> timedelta:
    """Days of `90d`, hours of `12h`.

    Raises:
        FeatureConfigError: the text is neither, or not above 0.
    """
    match = _SPAN.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise FeatureConfigError(
            f"{_WHERE}: no span of time, got {text!r}; write days or hours, such as 90d or 12h"
        )
    amount = int(match[1])
    try:
        return timedelta(days=amount) if match[2] == "d" else timedelta(hours=amount)
    except OverflowError:
        raise FeatureConfigError(f"{_WHERE}: is too long, got {text!r}; write 90d") from None


def expired_values(
    schema: FeatureSchema,
    frame: pl.LazyFrame,
    *,
    fitted: FeatureSchema,
    older_than: timedelta,
) -> dict[str, pl.Series]:
    """Values that no event has within a span before the latest event, by feature.

    Of the known ones, and of those that these events would bring in: what left by an earlier
    refresh is still in a long log, and must not come back. Events of all splits count, and a
    feature's values are also those of features that are like it.

    Args:
        schema: Has the vocabularies.
        frame: Events with their attributes, from `scan_events`.
        fitted: The same feature set fitted to these events.
        older_than: Length of the span.

    Raises:
        FeatureConfigError: the feature file has no time, or one without a unit.
        DataError: the data does not reach back that far, or has other types.
    """
    time = _time(schema, frame)
    mistakes = type_mistakes(schema.feature_set, frame, with_labels=False)
    types = {} if mistakes else raw_types(schema.feature_set, frame)
    mistakes += [] if mistakes else list(_other_kinds(schema, types))
    if mistakes:
        raise DataError(mistakes)
    recent = frame.filter(time >= _first_instant(frame, time, older_than=older_than))
    seen = {
        feature.name: _values(feature, types[feature.name], recent)
        for feature in schema.feature_set.of_kind(Categorical)
        if isinstance(schema.encoding_of(feature.name), VocabEncoding)
    }
    with reading(log_name(schema.feature_set)):
        found = dict(zip(seen, pl.collect_all(seen.values(), engine="streaming"), strict=True))
    expired = {}
    for name, vocabulary in schema.vocabularies.items():
        likes = [f.name for f in schema.feature_set.of_kind(Categorical) if f.like == name]
        candidates = _of_both(vocabulary.values, fitted.vocabularies[name].values)
        values = [found[n]["value"].cast(candidates.dtype, strict=False) for n in (name, *likes)]
        expired[name] = candidates.filter(
            ~candidates.is_in(pl.concat(values).drop_nulls().implode())
        )
    return expired


def _of_both(known: pl.Series, fitted: pl.Series) -> pl.Series:
    """Each value once, known ones first, in the type of these unless only the other holds all."""
    holds_all = not fitted.cast(known.dtype, strict=False).null_count()
    dtype = known.dtype if holds_all else fitted.dtype
    both = [values.cast(dtype, strict=False) for values in (known, fitted)]
    return pl.concat(both).drop_nulls().unique(maintain_order=True)


def _time(schema: FeatureSchema, frame: pl.LazyFrame) -> pl.Expr:
    time = schema.feature_set.entity.time
    if time is None:
        raise FeatureConfigError(
            f"{_WHERE}: needs to know when events happened, got no entity.time in the feature "
            f"file; add it, or leave out {_WHERE}"
        )
    dtype = frame.collect_schema()[time.column]
    if not isinstance(dtype, pl.Datetime):
        raise FeatureConfigError(
            f"{_WHERE}: needs to know what a day is, got entity.time {time.column!r} of type "
            f"{dtype} without a unit; set entity.time.unit to s, ms, us or ns, or leave out "
            f"{_WHERE}"
        )
    return pl.col(time.column)


def _first_instant(frame: pl.LazyFrame, time: pl.Expr, *, older_than: timedelta) -> datetime:
    """Of the span before the latest event."""
    ends = frame.select(time.min().alias("first"), time.max().alias("last"))
    first, latest = ends.collect(engine="streaming").row(0)
    if latest is None:
        raise DataError(f"{_WHERE}: there is no event to count from; give data with events")
    now = datetime.now(UTC).replace(tzinfo=None)
    if latest > now + _TIME_ZONES:
        raise DataError(
            f"{_WHERE}: the latest event lies in the future, got {latest}; it is {now:%Y-%m-%d} "
            f"here; leave such events out with sources.events.where"
        )
    if latest - first < older_than:
        raise DataError(
            f"{_WHERE}: the data does not reach back that far, got events from {first} to "
            f"{latest} ({_in_words(latest - first)}) for {_in_words(older_than)}; give older "
            f"data too, or a shorter span"
        )
    return latest - older_than


def _other_kinds(schema: FeatureSchema, types: dict[str, pl.DataType]) -> Iterator[str]:
    for feature in schema.feature_set.of_kind(Categorical):
        if not isinstance(schema.encoding_of(feature.name), VocabEncoding):
            continue
        known = schema.vocabulary_of(feature.name).values.dtype
        got = canonical_type(feature, types[feature.name])
        assert got is not None, "types are checked before"
        if not same_kind(known, got):
            yield (
                f"features.{feature.name} ({described(feature)}): must hold values of type "
                f"{known}, as in training, got {types[feature.name]}; cast it in the data"
            )


def _values(feature: Categorical, dtype: pl.DataType, events: pl.LazyFrame) -> pl.LazyFrame:
    """Each value of some events once."""
    values = events.select(value=categorical_values(feature, dtype))
    if is_multi_valued(feature, dtype):
        values = values.explode("value")
    return values.unique()


def _in_words(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours / 24:.3g} days" if hours >= 48 else f"{hours:.3g} hours"
