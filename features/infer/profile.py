"""What raw columns look like: sizes, ranges and a sample of rows, without reading them whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from features.columns import ROW
from features.split import uniform

SAMPLE_ROWS = 300_000
_FEW_VALUES = 1_000


@dataclass(frozen=True, eq=False)
class ColumnProfile:
    """One column in numbers. Counts cover all rows, or, of distinct values, nearly all.

    Attributes:
        name: Of the column.
        dtype: Of the column.
        num_rows: With missing values.
        num_missing: Nulls and NaN.
        num_infinite: Infinite numbers.
        num_distinct: Distinct values, missing ones apart; of a column with few values in the
            sample, those of the sample. 0 for columns of lists.
        num_single: Distinct values that occur once.
        minimum: Smallest number, or None where the column holds none.
        maximum: Largest number.
        values: Those of the sampled rows, without missing ones.
    """

    name: str
    dtype: pl.DataType
    num_rows: int
    num_missing: int
    num_infinite: int
    num_distinct: int
    num_single: int
    minimum: float | None
    maximum: float | None
    values: pl.Series

    @property
    def is_text(self) -> bool:
        """Whether values are texts."""
        return self.dtype in (pl.String, pl.Categorical, pl.Enum)

    @property
    def is_whole_number(self) -> bool:
        """Whether the type is one of whole numbers."""
        return self.dtype.is_integer()

    @property
    def is_date(self) -> bool:
        """Whether values are dates or datetimes."""
        return self.dtype == pl.Date or isinstance(self.dtype, pl.Datetime)

    @property
    def is_list(self) -> bool:
        """Whether a row holds several values."""
        return isinstance(self.dtype, pl.List | pl.Array)

    @property
    def may_be_id(self) -> bool:
        """Whether the type can tell who or what."""
        return self.is_text or self.is_whole_number

    @property
    def num_present(self) -> int:
        """Rows with a value."""
        return self.num_rows - self.num_missing


def sample_rows(frame: pl.LazyFrame, *, num_rows: int) -> pl.DataFrame:
    """All rows, or about `SAMPLE_ROWS` of a longer frame, drawn by a hash of their number.

    Args:
        frame: In the order of its files.
        num_rows: Of the frame.
    """
    if num_rows <= SAMPLE_ROWS:
        return frame.collect(engine="streaming")
    numbered = frame.with_row_index(ROW)
    chosen = uniform(pl.col(ROW), seed=0) < SAMPLE_ROWS / num_rows
    return numbered.filter(chosen).drop(ROW).collect(engine="streaming")


def profile_columns(
    frame: pl.LazyFrame, sample: pl.DataFrame, *, num_rows: int
) -> dict[str, ColumnProfile]:
    """Every column of a frame, by name.

    Args:
        frame: The whole.
        sample: From `sample_rows`.
        num_rows: Of the frame.
    """
    schema = dict(frame.collect_schema())
    totals = frame.select(_totals(schema)).collect(engine="streaming").row(0, named=True)
    present = {name: _present(sample[name]) for name in schema}
    distinct = _distinct(frame, schema, present, is_whole=len(sample) == num_rows)
    return {
        name: ColumnProfile(
            name=name,
            dtype=dtype,
            num_rows=num_rows,
            num_missing=int(totals[f"missing {i}"]),
            num_infinite=int(totals.get(f"infinite {i}") or 0),
            num_distinct=distinct[name][0],
            num_single=distinct[name][1],
            minimum=totals.get(f"min {i}"),
            maximum=totals.get(f"max {i}"),
            values=present[name],
        )
        for i, (name, dtype) in enumerate(schema.items())
    }


def _totals(schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    found = []
    for i, (name, dtype) in enumerate(schema.items()):
        value = pl.col(name)
        missing = value.is_null()
        if dtype.is_float():
            missing = missing | value.is_nan().fill_null(False)
            found.append(value.is_infinite().sum().alias(f"infinite {i}"))
        found.append(missing.sum().alias(f"missing {i}"))
        if dtype.is_numeric():
            number = value.cast(pl.Float64).fill_nan(None)
            found += [number.min().alias(f"min {i}"), number.max().alias(f"max {i}")]
    return found


def _present(values: pl.Series) -> pl.Series:
    values = values.drop_nulls()
    return values.drop_nans() if values.dtype.is_float() else values


def _distinct(
    frame: pl.LazyFrame,
    schema: Mapping[str, pl.DataType],
    present: Mapping[str, pl.Series],
    *,
    is_whole: bool,
) -> dict[str, tuple[int, int]]:
    """Distinct values of each column and how many occur once."""
    found: dict[str, tuple[int, int]] = dict.fromkeys(schema, (0, 0))
    counted_anew = {}
    for name, dtype in schema.items():
        if dtype.is_nested() or dtype in (pl.Object, pl.Binary):
            continue
        counts = present[name].value_counts(name="times")["times"]
        found[name] = (len(counts), int((counts == 1).sum()))
        if not is_whole and len(counts) > _FEW_VALUES:
            counted_anew[name] = (
                frame.select(value=pl.col(name))
                .drop_nulls()
                .group_by("value")
                .len("times")
                .select(pl.len().alias("all"), (pl.col("times") == 1).sum().alias("once"))
            )
    for name, query in counted_anew.items():  # one at a time: each may need much memory
        found[name] = query.collect(engine="streaming").row(0)
    return found
