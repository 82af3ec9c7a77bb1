"""FeatureSet + events -> FeatureSchema: vocabularies, boundaries and moments of the training rows.

The same pass over the data checks every event, so that nothing wrong reaches training.
"""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl

from features.checks import broken, counted, log_name, reading, split_checks, value_checks
from features.columns import SPLIT
from features.dense import clipped, filled, number
from features.errors import DataError
from features.raw_checks import described, type_mistakes
from features.schema import FeatureSchema, Moments, Vocabulary
from features.sources import scan_events
from features.spec import Bucketized, Categorical, Dense, FeatureSet, VocabEncoding
from features.split import assign_split
from features.values import categorical_values, is_multi_valued, raw_types


def fit_file(feature_set: FeatureSet, data_dir: Path) -> FeatureSchema:
    """Scan, split and fit.

    Args:
        feature_set: What to fit.
        data_dir: Directory of the raw files.

    Raises:
        DataError: with what is wrong in the data.
    """
    return fit_schema(feature_set, assign_split(feature_set, scan_events(feature_set, data_dir)))


def fit_schema(feature_set: FeatureSet, frame: pl.LazyFrame) -> FeatureSchema:
    """Fit all that encoding needs.

    Statistics come from rows with `_split` train, whether or not a label's `where` holds. Checks
    cover all rows.

    Args:
        feature_set: What to fit.
        frame: Events with `_row` and `_split`, from `assign_split`.

    Raises:
        DataError: with all that is wrong in the data; or no event trains.
    """
    types = _checked_types(feature_set, frame)
    training = frame.filter(pl.col(SPLIT) == "train")
    counted_values = {
        feature.name: _value_counts(feature, types[feature.name], training)
        for feature in feature_set.embedded
        if _is_counted(feature)
    }
    checks = [*value_checks(feature_set, types, with_labels=True), *split_checks(feature_set)]
    dense = feature_set.of_kind(Dense)
    where = log_name(feature_set)
    with reading(where):
        summary, *tables = pl.collect_all(
            [
                frame.select(*_row_counts(), *counted(checks), *_moment_sums(dense)),
                *counted_values.values(),
            ],
            engine="streaming",
        )
    totals = summary.row(0, named=True)
    mistakes = broken(checks, totals, frame=frame, where=where)
    mistakes += _without_training(totals, where=where)
    mistakes += [] if mistakes else _without_mean(dense, totals, where=where)
    if mistakes:
        raise DataError(mistakes)
    by_name = dict(zip(counted_values, tables, strict=True))
    return FeatureSchema(
        feature_set=feature_set,
        vocabularies={
            f.name: _vocabulary(f.encoding, by_name[f.name])
            for f in feature_set.of_kind(Categorical)
            if f.name in by_name
        },
        boundaries={
            f.name: f.boundaries or _quantiles(by_name[f.name], num_ranges=f.quantiles)
            for f in feature_set.of_kind(Bucketized)
        },
        moments={f.name: _moments(f, totals) for f in dense},
        multi_valued=tuple(
            f.name for f in feature_set.of_kind(Categorical) if is_multi_valued(f, types[f.name])
        ),
    )


def check_events(feature_set: FeatureSet, frame: pl.LazyFrame) -> None:
    """Check all events as `fit_schema` does, where the schema is known already.

    Args:
        feature_set: Says what they must be.
        frame: Events with `_row` and `_split`, from `assign_split`.

    Raises:
        DataError: with all that is wrong in the data; or no event trains.
    """
    types = _checked_types(feature_set, frame)
    checks = [*value_checks(feature_set, types, with_labels=True), *split_checks(feature_set)]
    where = log_name(feature_set)
    with reading(where):
        found = frame.select(*_row_counts(), *counted(checks)).collect(engine="streaming")
    totals = found.row(0, named=True)
    mistakes = broken(checks, totals, frame=frame, where=where)
    mistakes += _without_training(totals, where=where)
    if mistakes:
        raise DataError(mistakes)


def _checked_types(feature_set: FeatureSet, frame: pl.LazyFrame) -> dict[str, pl.DataType]:
    mistakes = type_mistakes(feature_set, frame, with_labels=True)
    if mistakes:
        raise DataError(mistakes)
    return raw_types(feature_set, frame)


def _row_counts() -> list[pl.Expr]:
    return [
        pl.len().alias("num_rows"),
        (pl.col(SPLIT) == "train").sum().alias("num_training"),
    ]


def _without_training(totals: dict[str, int], *, where: str) -> list[str]:
    if totals["num_training"]:
        return []
    return [
        f"{where}: no event trains, got {totals['num_rows']} events; check `split` "
        f"and sources.events.where"
    ]


def _is_counted(feature: Categorical | Bucketized) -> bool:
    """Whether fitting needs how often each value occurs."""
    if isinstance(feature, Bucketized):
        return feature.quantiles is not None
    return feature.like is None and isinstance(feature.encoding, VocabEncoding)


def _value_counts(
    feature: Categorical | Bucketized, dtype: pl.DataType, training: pl.LazyFrame
) -> pl.LazyFrame:
    if isinstance(feature, Bucketized):
        values = training.select(value=filled(feature))
    else:
        values = training.select(value=categorical_values(feature, dtype))
        if is_multi_valued(feature, dtype):
            values = values.explode("value")
    return values.drop_nulls().group_by("value").agg(count=pl.len().cast(pl.Int64))


def _vocabulary(encoding: VocabEncoding, counts: pl.DataFrame) -> Vocabulary:
    kept = counts.filter(pl.col("count") >= encoding.min_count).sort(
        ["count", "value"], descending=[True, False]
    )
    if encoding.max_size is not None:
        kept = kept.head(encoding.max_size)
    return Vocabulary(values=kept["value"], counts=kept["count"])


def _quantiles(counts: pl.DataFrame, *, num_ranges: int) -> tuple[float, ...]:
    """The values at ranks k N / num_ranges; equal ones, and the smallest of all, once or never."""
    ordered = counts.sort("value")
    ends = ordered["count"].cum_sum()
    total = ends[-1]
    ranks = [-(-k * total // num_ranges) for k in range(1, num_ranges)]
    # Position of the value that holds the 0-based rank: the first whose end lies behind it.
    positions = ends.search_sorted(pl.Series(ranks, dtype=ends.dtype), side="right").to_list()
    cuts = sorted({p for p in positions if 0 < p < len(ordered)})
    return tuple(ordered["value"].gather(cuts).to_list())


def _moment_sums(features: tuple[Dense, ...]) -> list[pl.Expr]:
    """Over training rows with a value; `fill: mean` leaves the missing ones out."""
    is_training = pl.col(SPLIT) == "train"
    found = []
    for feature in features:
        value = clipped(feature, filled(feature)).filter(is_training)
        found += [
            value.mean().alias(f"mean_{feature.name}"),
            value.std(ddof=0).alias(f"std_{feature.name}"),
            number(feature).filter(is_training).mean().alias(f"raw_mean_{feature.name}"),
        ]
    return found


def _without_mean(
    features: tuple[Dense, ...], totals: dict[str, float], *, where: str
) -> list[str]:
    return [
        f"{where}: features.{f.name} ({described(f)}): no training row has a number to take "
        f"the mean of; set `fill` to a number"
        for f in features
        if f.fill == "mean" and totals[f"raw_mean_{f.name}"] is None
    ]


def _moments(feature: Dense, totals: dict[str, float]) -> Moments:
    mean, std, raw_mean = (totals[f"{key}_{feature.name}"] for key in ("mean", "std", "raw_mean"))
    # Sums of a threaded pass differ in the last bits from run to run; the schema must not.
    mean, std = float(f"{mean:.12g}"), float(f"{std:.9g}")
    is_constant = std <= 1e-9 * max(1.0, math.fabs(mean))
    return Moments(
        mean=mean,
        std=1.0 if is_constant else std,
        raw_mean=0.0 if raw_mean is None else float(f"{raw_mean:.12g}"),
    )
