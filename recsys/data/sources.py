"""Where rows come from: Parquet row groups, or columns in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import DataError
from recsys.data.rows import Rows, ranges


@dataclass(frozen=True)
class Pieces:
    """Parts of chunks, in the order in which they are read.

    Attributes:
        chunks: Number of each piece's chunk.
        starts: Its first row within the chunk.
        lengths: Its rows.
    """

    chunks: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


FILE, ROW_IN_FILE = "@file", "@row"
"""Columns that say where a row was read: number of the file, and row in it."""

_MEND = "delete the store, and it is built again"


class RowSource(Protocol):
    """Rows in chunks, which are what is cheap to read at once.

    Attributes:
        chunk_lengths: Rows of each chunk, in file order.
    """

    @property
    def chunk_lengths(self) -> NDArray[np.int64]:
        """Rows of each chunk, in file order."""
        ...

    def read(self, pieces: Pieces) -> Rows:
        """The rows of the pieces, one piece after the other."""
        ...

    def with_places(self) -> RowSource:
        """The same rows, with `FILE` and `ROW_IN_FILE` where they come from files."""
        ...


class ParquetSource:
    """Rows of Parquet files; a chunk is a row group. Opens files when it first reads them.

    Args:
        files: In order.
        columns: What to read.
        has_places: Whether rows say where they were read.
    """

    def __init__(
        self, files: Sequence[Path], *, columns: Sequence[str], has_places: bool = False
    ) -> None:
        self.files = tuple(files)
        self.columns = list(columns)
        self._has_places = has_places
        self._open: dict[int, pq.ParquetFile] = {}

    def __getstate__(self) -> dict[str, object]:
        """Travels between processes without its open files."""
        return {**self.__dict__, "_open": {}}

    def with_places(self) -> ParquetSource:
        """The same rows, with `FILE` and `ROW_IN_FILE`."""
        return ParquetSource(self.files, columns=self.columns, has_places=True)

    @cached_property
    def _groups(self) -> list[_Group]:
        groups = []
        for number, file in enumerate(self.files):
            metadata, first_row = pq.read_metadata(file), 0
            for group in range(metadata.num_row_groups):
                num_rows = metadata.row_group(group).num_rows
                groups.append(_Group(number, group, first_row, num_rows))
                first_row += num_rows
        return groups

    @property
    def chunk_lengths(self) -> NDArray[np.int64]:
        """Rows of each row group."""
        return np.array([group.num_rows for group in self._groups], dtype=np.int64)

    def read(self, pieces: Pieces) -> Rows:
        """Decode the row groups of the pieces.

        Raises:
            DataError: a file is damaged, or has a null for an id.
        """
        tables = [
            self._read_group(int(chunk)).slice(int(start), int(length))
            for chunk, start, length in zip(
                pieces.chunks, pieces.starts, pieces.lengths, strict=True
            )
        ]
        return Rows.from_arrow(pa.concat_tables(tables))

    def _read_group(self, chunk: int) -> pa.Table:
        group = self._groups[chunk]
        path = self.files[group.file]
        try:
            if group.file not in self._open:
                self._open[group.file] = pq.ParquetFile(path)
            # One thread: reading lies beside training, which wants the cores.
            table = self._open[group.file].read_row_group(
                group.number, columns=self.columns, use_threads=False
            )
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{path}: row group {group.number} cannot be read, got {error}; {_MEND}"
            ) from error
        _check_columns(table, path, wanted=self.columns, first_row=group.first_row)
        if not self._has_places:
            return table
        rows = pa.array(np.arange(group.first_row, group.first_row + group.num_rows))
        files = pa.array(np.full(group.num_rows, group.file))
        return table.append_column(FILE, files).append_column(ROW_IN_FILE, rows)


@dataclass(frozen=True)
class _Group:
    """A row group: number of its file, its own, its first row in the file, and its rows."""

    file: int
    number: int
    first_row: int
    num_rows: int


def _check_columns(table: pa.Table, path: Path, *, wanted: Sequence[str], first_row: int) -> None:
    """Refuse missing columns, which Arrow leaves out, and nulls, which numpy makes into NaN."""
    mistakes = [
        f"{path}: has no column {name!r}, got {', '.join(table.column_names)}; {_MEND}"
        for name in wanted
        if name not in table.column_names
    ]
    for name, column in zip(table.column_names, table.columns, strict=True):
        if (row := _first_null(column)) is not None:
            mistakes.append(
                f"features.{name}: no value in row {first_row + row} of {path}, got null; "
                f"allowed whole numbers; {_MEND}"
            )
    if mistakes:
        raise DataError(mistakes)


def _first_null(column: pa.ChunkedArray) -> int | None:
    """The first row without a value, or with a list that has one; None: all are whole."""
    start = 0
    for chunk in column.chunks:
        is_list = pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type)
        inner = chunk.flatten() if is_list else chunk
        if not pa.types.is_floating(inner.type) and not pa.types.is_fixed_size_list(inner.type):
            if chunk.null_count:
                return start + int(chunk.is_null().to_numpy(zero_copy_only=False).argmax())
            if is_list and inner.null_count:
                place = int(inner.is_null().to_numpy(zero_copy_only=False).argmax())
                lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
                return start + int(np.searchsorted(lengths.cumsum(), place, side="right"))
        start += len(chunk)
    return None


class MemorySource:
    """Rows in memory, in chunks of a fixed length.

    Args:
        rows: All of them.
        chunk_length: Rows that stay together when chunks are shuffled.
    """

    def __init__(self, rows: Rows, *, chunk_length: int = 64) -> None:
        self.rows = rows
        self._chunk_length = chunk_length
        starts = np.arange(0, len(rows), chunk_length)
        self.chunk_lengths = np.diff(np.append(starts, len(rows)))

    def read(self, pieces: Pieces) -> Rows:
        """Copy the rows of the pieces."""
        starts = pieces.chunks * self._chunk_length + pieces.starts
        return self.rows.take(ranges(starts, pieces.lengths))

    def with_places(self) -> MemorySource:
        """The same rows, which come from no file."""
        return self
