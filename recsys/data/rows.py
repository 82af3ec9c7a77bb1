"""Rows of encoded examples as numpy columns: between Arrow, which reads, and tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths, end to end.

    Attributes:
        values: All elements, list after list.
        lengths: Elements of each list.
    """

    values: Array
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.lengths)


Column = Array | Ragged
"""One entry per row: a number, a vector (a second dimension), or a list."""


@dataclass(frozen=True)
class Rows:
    """Some rows of some columns.

    Attributes:
        columns: All of `num_rows` entries.
        num_rows: Kept apart, for rows without columns.
    """

    columns: Mapping[str, Column]
    num_rows: int

    def __len__(self) -> int:
        """Number of rows."""
        return self.num_rows

    def __getitem__(self, name: str) -> Column:
        """One column."""
        return self.columns[name]

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Rows:
        """Rows of an Arrow table; a null number becomes NaN, a null in any other column fails."""
        columns = {name: _from_arrow(table.column(name), name) for name in table.column_names}
        return cls(columns, table.num_rows)

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """All rows of the parts, which have the same columns."""
        if len(parts) == 1:
            return parts[0]
        columns = {n: _concatenate([part[n] for part in parts]) for n in parts[0].columns}
        return cls(columns, sum(len(part) for part in parts))

    def take(self, index: NDArray[np.int64]) -> Rows:
        """The rows at these positions, in this order."""
        return Rows({n: _take(c, index) for n, c in self.columns.items()}, len(index))

    def slice(self, start: int, stop: int) -> Rows:
        """Rows start ... stop - 1."""
        return Rows({n: _slice(c, start, stop) for n, c in self.columns.items()}, stop - start)

    def replaced(self, name: str, column: Column) -> Rows:
        """The same rows with one column exchanged or added."""
        return Rows({**self.columns, name: column}, self.num_rows)


def integers(column: Column) -> NDArray[np.int64]:
    """A column with one integer per row."""
    assert isinstance(column, np.ndarray), "one number per row"
    return column.astype(np.int64)


def numbers(column: Column) -> NDArray[np.float32]:
    """A column with one number, or several, per row."""
    assert isinstance(column, np.ndarray), "numbers, no lists"
    return column.astype(np.float32)


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions starts[i] ... starts[i] + lengths[i] - 1, one range after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)


def _from_arrow(column: pa.ChunkedArray, name: str) -> Column:
    array = column.combine_chunks()
    if array.null_count and not pa.types.is_floating(array.type):
        raise AssertionError(f"encoded column {name!r} has {array.null_count} nulls")
    if pa.types.is_fixed_size_list(array.type):
        return _numbers(array.flatten()).reshape(len(array), array.type.list_size)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = _numbers(array.value_lengths()).astype(np.int64)
        return Ragged(_numbers(array.flatten()), lengths)
    return _numbers(array)


def _numbers(array: pa.Array) -> Array:
    return array.to_numpy(zero_copy_only=False)


def _concatenate(parts: Sequence[Column]) -> Column:
    if isinstance(parts[0], Ragged):
        lists = [part for part in parts if isinstance(part, Ragged)]
        values = np.concatenate([part.values for part in lists])
        return Ragged(values, np.concatenate([part.lengths for part in lists]))
    return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])


def _take(column: Column, index: NDArray[np.int64]) -> Column:
    if isinstance(column, Ragged):
        starts = np.cumsum(column.lengths) - column.lengths
        lengths = column.lengths[index]
        return Ragged(column.values[ranges(starts[index], lengths)], lengths)
    return column[index]


def _slice(column: Column, start: int, stop: int) -> Column:
    if isinstance(column, Ragged):
        first = int(column.lengths[:start].sum())
        lengths = column.lengths[start:stop]
        return Ragged(column.values[first : first + int(lengths.sum())], lengths)
    return column[start:stop]
