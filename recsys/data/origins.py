"""Where the rows of a batch come from, in words that lead to the raw files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from features import columns
from recsys.data.rows import Rows, integers, numbers
from recsys.data.store import EncodedStore

_MOST_NAMED = 5


def of_events(rows: Rows, *, files: Sequence[Path], dense: Sequence[str]) -> str:
    """The raw files and rows of events, and the largest of their numbers.

    Args:
        rows: With their position in the log.
        files: Of the log, in order.
        dense: Columns with numbers, encoded.
    """
    positions_B = integers(rows[columns.ROW])
    ends = np.cumsum([pq.read_metadata(file).num_rows for file in files])
    file_B = np.searchsorted(ends, positions_B, side="right")
    rows_B = positions_B - np.append(0, ends)[file_B]
    named = [
        f"rows {_listed(np.unique(rows_B[file_B == number]))} of {files[number]}"
        for number in np.unique(file_B)
    ]
    largest = []
    for name in dense:
        size_B = np.abs(numbers(rows[name])).reshape(len(rows), -1)
        size_B = np.nan_to_num(size_B, nan=np.inf).max(axis=1)
        at = int(size_B.argmax())
        largest.append((float(size_B[at]), name, rows_B[at], files[file_B[at]].name))
    if largest:
        size, name, row, file = max(largest)
        named.append(f"largest encoded number {size:.4g}, feature {name!r}, row {row} of {file}")
    return "; ".join(named)


def of_users(rows: Rows, *, store: EncodedStore) -> str:
    """The raw ids of the users whose histories the rows are."""
    raw = pl.read_parquet(store.users_file)["user"]
    users = [repr(raw[int(user)]) for user in np.unique(integers(rows[columns.USER]))]
    return f"users {_listed(users)}"


def _listed(names: Sequence[object] | np.ndarray) -> str:
    shown = ", ".join(str(name) for name in names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
