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


class ParquetSource:
    """Rows of Parquet files; a chunk is a row group. Opens files when it first reads them.

    Args:
        files: In order.
        columns: What to read.
    """

    def __init__(self, files: Sequence[Path], *, columns: Sequence[str]) -> None:
        self.files = tuple(files)
        self.columns = list(columns)
        self._open: dict[int, pq.ParquetFile] = {}

    def __getstate__(self) -> dict[str, object]:
        """Travels between processes without its open files."""
        return {"files": self.files, "columns": self.columns, "_open": {}}

    @cached_property
    def _groups(self) -> list[tuple[int, int, int]]:
        """File, row group and rows of each chunk."""
        groups = []
        for number, file in enumerate(self.files):
            metadata = pq.read_metadata(file)
            groups += [
                (number, group, metadata.row_group(group).num_rows)
                for group in range(metadata.num_row_groups)
            ]
        return groups

    @property
    def chunk_lengths(self) -> NDArray[np.int64]:
        """Rows of each row group."""
        return np.array([rows for _, _, rows in self._groups], dtype=np.int64)

    def read(self, pieces: Pieces) -> Rows:
        """Decode the row groups of the pieces.

        Raises:
            DataError: a file is damaged.
        """
        tables = [
            self._read_group(int(chunk)).slice(int(start), int(length))
            for chunk, start, length in zip(
                pieces.chunks, pieces.starts, pieces.lengths, strict=True
            )
        ]
        return Rows.from_arrow(pa.concat_tables(tables))

    def _read_group(self, chunk: int) -> pa.Table:
        number, group, _ = self._groups[chunk]
        try:
            if number not in self._open:
                self._open[number] = pq.ParquetFile(self.files[number])
            # One thread: reading lies beside training, which wants the cores.
            return self._open[number].read_row_group(group, columns=self.columns, use_threads=False)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{self.files[number]}: row group {group} cannot be read, got {error}; "
                f"delete the store, and it is built again"
            ) from error


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
