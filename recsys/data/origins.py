"""Where the rows of a batch come from, in words that lead to the raw files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from features import columns
from features.columns import is_of_sequence
from features.errors import DataError
from features.sources import scan_events, source_files
from features.spec import ColumnFeature
from features.spec import Sequence as SequenceFeature
from features.values import raw
from recsys.data.histories import VALUES
from recsys.data.rows import Rows, integers, numbers
from recsys.data.sources import FILE, ROW_IN_FILE
from recsys.data.store import EncodedStore

_MOST_NAMED = 5


@dataclass(frozen=True)
class Origins:
    """Knows where single ids of a store come from.

    Attributes:
        store: The encoded data.
        data_dir: Directory of the raw files.
    """

    store: EncodedStore
    data_dir: Path

    def of_id(self, row: Rows, *, key: str, files: Sequence[Path]) -> str:
        """The file and row of an id, and the raw value it was made of, as far as they are known.

        Args:
            row: A single one, with its place, of examples; or with its user.
            key: Of the id in a batch.
            files: Those that `FILE` numbers.
        """
        if is_of_sequence(key):
            return self._of_history(row, key=key)
        if FILE not in row.columns:
            return ""
        file, place = files[integers(row[FILE])[0]], int(integers(row[ROW_IN_FILE])[0])
        return f"row {place} of {file}{self._of_event(file, place, feature=key)}"

    def _of_history(self, row: Rows, *, key: str) -> str:
        name, _, feature = key.partition(".")
        sequence = self.store.schema.feature_set.feature(name)
        assert isinstance(sequence, SequenceFeature), "keys with a dot are of sequences"
        path = self.store.histories_of(sequence).path
        return f"the history of {of_users(row, store=self.store)}, {path / VALUES / feature}.npy"

    def _of_event(self, file: Path, place: int, *, feature: str) -> str:
        """The row of the raw log, and its value; nothing where the log is gone or has changed."""
        feature_set = self.store.schema.feature_set
        spec = feature_set.feature(feature)
        try:
            [position] = pl.scan_parquet(file, glob=False).slice(place, 1).collect()[columns.ROW]
            log = source_files(feature_set, self.data_dir)["events"]
            events = scan_events(feature_set, self.data_dir, require_labels=False)
            assert isinstance(spec, ColumnFeature), "an embedded feature"
            value = events.filter(pl.col(columns.ROW) == position).select(raw=raw(spec))
            [found] = value.collect(engine="streaming")["raw"]
        except (DataError, pl.exceptions.PolarsError, OSError, ValueError):
            return ""
        ends = np.cumsum([pq.read_metadata(name).num_rows for name in log])
        number = int(np.searchsorted(ends, position, side="right"))
        row = position - int(np.append(0, ends)[number])
        return f", encoded from {found!r} in row {row} of {log[number]}"


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
    users = store.names_of(np.unique(integers(rows[columns.USER])))
    return f"users {_listed([repr(user) for user in users])}"


def _listed(names: Sequence[object] | np.ndarray) -> str:
    shown = ", ".join(str(name) for name in names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
