"""Vectors of users and items as files: a score is the dot product of a user's and an item's.

vectors/users.npy  items.npy           float32, a row for each
        users.parquet  items.parquet   the raw id of each row, and the same numbers as `vector`
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

_ROWS = 65_536  # of a row group


def open_vectors(path: Path, *, num_rows: int, width: int) -> NDArray[np.float32]:
    """A new `.npy` file that is filled by writing to the array.

    Args:
        path: Where it lies.
        num_rows: Of it.
        width: Numbers of a vector.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return open_memmap(path, mode="w+", dtype=np.float32, shape=(num_rows, width))


def write_with_ids(path: Path, ids: pl.Series, vectors: NDArray[np.float32]) -> None:
    """Write a Parquet file, some rows at a time.

    Args:
        path: Where it lies.
        ids: Raw, a row for each vector, by the name of their column.
        vectors: All of one width.
    """
    width = vectors.shape[1]
    array_type = pa.list_(pa.float32(), width)
    id_array = ids.to_arrow()
    schema = pa.schema([(ids.name, id_array.type), ("vector", array_type)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(ids), _ROWS):
            part = np.ascontiguousarray(vectors[start : start + _ROWS])
            column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), type=array_type)
            names = id_array.slice(start, _ROWS)
            writer.write_table(pa.Table.from_arrays([names, column], schema=schema))
