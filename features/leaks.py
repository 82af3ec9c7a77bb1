"""How much a single feature says about the label, and which of its values say it all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

NEAR_ONE = 0.95
"""A single feature of real data stays below this area under the curve."""
_LEAST_ROWS = 100
_LEAST_EXPECTED = 20
_PRIOR = 5.0


@dataclass(frozen=True)
class PureValue:
    """A frequent value of a feature with which the label is always the same.

    Attributes:
        value: Of the feature.
        share: Of the rows.
        label: 0 or 1.
    """

    value: Any
    share: float
    label: int


def number_auc(values: pl.Series, labels: pl.Series) -> float | None:
    """Area under the curve of a number, or of its negative, whichever is above a half.

    Args:
        values: Numbers; rows without one are left out.
        labels: 0 or 1.

    Returns:
        None where there are too few rows, or one label only.
    """
    rows = pl.DataFrame({"value": values.cast(pl.Float64).fill_nan(None), "label": labels})
    found = _auc(rows.drop_nulls())
    return None if found is None else max(found, 1 - found)


def category_auc(values: pl.Series, labels: pl.Series) -> float | None:
    """Area under the curve of the mean label of each value, taken from the other half of the rows.

    Args:
        values: Categories, or lists of them, whose means are averaged.
        labels: 0 or 1.

    Returns:
        None where there are too few rows, or one label only.
    """
    rows = pl.DataFrame({"value": values, "label": labels}).with_row_index("row")
    rows = rows.with_columns(half=pl.col("row") // 16 % 2)  # neighbours in a log are alike
    if rows.schema["value"].is_nested():
        rows = rows.explode("value", empty_as_null=True)
    means = rows.group_by("value", "half").agg(pl.col("label").sum().alias("ones"), pl.len())
    mean = rows["label"].mean()
    scores = means.select(
        "value",
        half=1 - pl.col("half").cast(pl.Int8),
        score=(pl.col("ones") + _PRIOR * pl.lit(mean)) / (pl.col("len") + _PRIOR),
    )
    scored = rows.with_columns(pl.col("half").cast(pl.Int8)).join(
        scores, on=["value", "half"], how="left", nulls_equal=True
    )
    by_row = scored.with_columns(pl.col("score").fill_null(pl.lit(mean))).group_by("row", "half")
    per_row = by_row.agg(value=pl.col("score").mean(), label=pl.col("label").first())
    halves = [_auc(per_row.filter(pl.col("half") == half)) for half in (0, 1)]
    known = [auc for auc in halves if auc is not None]
    return sum(known) / len(known) if known else None


def pure_value(values: pl.Series, labels: pl.Series) -> PureValue | None:
    """The most frequent value whose rows all have one label, where chance would not do that.

    Args:
        values: Single categories.
        labels: 0 or 1.
    """
    rows = pl.DataFrame({"value": values, "label": labels}).drop_nulls("label")
    mean = rows["label"].mean()
    if not isinstance(mean, float) or not 0 < mean < 1:
        return None
    groups = rows.group_by("value").agg(pl.len().alias("rows"), pl.col("label").sum().alias("ones"))
    # The label that is absent: as many rows as expected of it can hardly be missing by chance.
    none_of_ones = (pl.col("ones") == 0) & (pl.col("rows") * mean >= _LEAST_EXPECTED)
    none_of_zeros = (pl.col("ones") == pl.col("rows")) & (
        pl.col("rows") * (1 - mean) >= _LEAST_EXPECTED
    )
    frequent = groups.filter(
        (pl.col("rows") >= 0.01 * len(rows)) & (none_of_ones | none_of_zeros)
    ).sort("rows", "value", descending=[True, False])
    if not len(frequent):
        return None
    first = frequent.row(0, named=True)
    return PureValue(first["value"], first["rows"] / len(rows), int(first["ones"] > 0))


def _auc(rows: pl.DataFrame) -> float | None:
    """By ranks; ties count a half."""
    ones = rows.filter(pl.col("label") > 0)
    num_ones, num_zeros = len(ones), len(rows) - len(ones)
    if len(rows) < _LEAST_ROWS or not num_ones or not num_zeros:
        return None
    ranks = rows.select(pl.col("value").rank("average").filter(pl.col("label") > 0).sum()).item()
    return float((ranks - num_ones * (num_ones + 1) / 2) / (num_ones * num_zeros))
