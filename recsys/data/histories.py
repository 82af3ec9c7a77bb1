"""Events of every user in order, as flat memory-mapped arrays: a history is a slice of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from features.errors import DataError
from recsys.data.rows import Array, Column, Ragged, ranges

OFFSETS = "offsets.npy"
TRAIN_LENGTHS = "train_lengths.npy"
VALUES = "values"
VALUE_OFFSETS = "value_offsets"

_MEND = "delete the store, and it is built again"


class Histories:
    """The histories below one directory, opened without reading them.

    The events of history row u are `values(feature)[offsets[u] : offsets[u + 1]]`, oldest first,
    ties in time in the order of the file. The times of the events of a sequence are values too,
    by `time_column`. Of a feature that may have several values, all those of all events lie end to
    end, and a second file says where those of each event begin.

    Args:
        path: Directory that `HistoryWriter` made.

    Attributes:
        offsets: Start of each history row, and the end of the last.
        train_lengths: How many events of each history train; -1 where others lie between them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets: NDArray[np.int64] = _open(path / OFFSETS)
        self.train_lengths: NDArray[np.int64] = _open(path / TRAIN_LENGTHS)
        self._values = _open_all(path / VALUES)
        self._value_offsets = _open_all(path / VALUE_OFFSETS)
        self._check_ends()

    def __reduce__(self) -> tuple[type[Histories], tuple[Path]]:
        """Travels between processes as its path."""
        return type(self), (self.path,)

    def __len__(self) -> int:
        """Number of history rows."""
        return len(self.offsets) - 1

    def values(self, feature: str) -> Array:
        """The ids of one feature, or the times of one sequence, for all events of all users.

        Args:
            feature: One that has one value per event.
        """
        assert feature not in self._value_offsets, f"{feature} may have several values per event"
        return self._values[feature]

    def slice(
        self,
        users_B: NDArray[np.int64],
        ends_B: NDArray[np.int64],
        *,
        features: Sequence[str],
        max_length: int | None = None,
    ) -> tuple[list[Column], NDArray[np.int64]]:
        """The events of each user before a position, oldest first.

        Args:
            users_B: History rows.
            ends_B: Number of events before the position, at most the length of the history.
            features: What to read of each event.
            max_length: Keeps the most recent events. None: all.

        Returns:
            Of each feature the packed values, or the lists of the packed events; and lengths_B.

        Raises:
            DataError: there is no such user, or no such position in the history.
        """
        begins_B = self._begins(users_B, ends_B)
        lengths_B = ends_B if max_length is None else np.minimum(ends_B, max_length)
        index_L = ranges(begins_B + ends_B - lengths_B, lengths_B)
        return [self._of_events(index_L, feature=feature) for feature in features], lengths_B

    def last(self, users_B: NDArray[np.int64], ends_B: NDArray[np.int64], *, feature: str) -> Array:
        """The value of the last event before each position; 0 where there is none.

        Args:
            users_B: History rows.
            ends_B: Number of events before the position, at most the length of the history.
            feature: What to read of the event.
        """
        values = self.values(feature)
        has_event_B = ends_B > 0
        last_B = np.zeros(len(users_B), values.dtype)
        last_B[has_event_B] = values[(self.offsets[users_B] + ends_B - 1)[has_event_B]]
        return last_B

    def lengths_of(self, users_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of events of some history rows."""
        return self.offsets[users_B + 1] - self.offsets[users_B]

    def _begins(self, users_B: NDArray[np.int64], ends_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the histories begin, after a look at whether all that is asked for is there."""
        if len(users_B) and (users_B.min() < 0 or users_B.max() >= len(self)):
            wrong = users_B[(users_B < 0) | (users_B >= len(self))][0]
            raise DataError(
                f"{self.path}: has no history of this row, got {wrong}; allowed 0 ... "
                f"{len(self) - 1}; {_MEND}"
            )
        begins_B, stops_B = self.offsets[users_B], self.offsets[users_B + 1]
        is_outside_B = (ends_B < 0) | (ends_B > stops_B - begins_B)
        is_outside_B |= (begins_B < 0) | (stops_B > self.offsets[-1])
        if is_outside_B.any():
            place = int(is_outside_B.argmax())
            raise DataError(
                f"{self.path}: position outside of history row {users_B[place]}, got "
                f"{ends_B[place]}; allowed 0 ... {stops_B[place] - begins_B[place]}; {_MEND}"
            )
        return begins_B

    def _check_ends(self) -> None:
        """Offsets end at the number of events, and those of lists at the number of values."""
        num_events = int(self.offsets[-1])
        ends = {OFFSETS: (int(self.offsets[0]), 0)}
        for name, values in self._values.items():
            offsets = self._value_offsets.get(name)
            file = f"{VALUES}/{name}.npy"
            if offsets is None:
                ends[file] = (len(values), num_events)
                continue
            ends[f"{VALUE_OFFSETS}/{name}.npy"] = (len(offsets), num_events + 1)
            ends[file] = (len(values), int(offsets[-1]))
        mistakes = [
            f"{self.path / file}: does not fit the offsets beside it, got {found}; allowed "
            f"{expected}; {_MEND}"
            for file, (found, expected) in ends.items()
            if found != expected
        ]
        if mistakes:
            raise DataError(mistakes)

    def _of_events(self, index_L: NDArray[np.int64], *, feature: str) -> Column:
        offsets = self._value_offsets.get(feature)
        if offsets is None:
            return self._values[feature][index_L]
        starts_L = offsets[index_L]
        counts_L = offsets[index_L + 1] - starts_L
        last = int(offsets[-1])
        is_wrong_L = (starts_L < 0) | (counts_L < 0) | (starts_L + counts_L > last)
        if is_wrong_L.any():
            place = int(is_wrong_L.argmax())
            raise DataError(
                f"{self.path / VALUE_OFFSETS}/{feature}.npy: are no offsets of lists, got "
                f"{starts_L[place]} and {counts_L[place]} more for event {index_L[place]}; allowed "
                f"0 ... {last}, none below the one before; {_MEND}"
            )
        return Ragged(self._values[feature][ranges(starts_L, counts_L)], counts_L)


class HistoryWriter:
    """Fills the flat arrays of one `Histories` directory, a range of history rows after the other.

    Args:
        path: Directory to make.
        lengths: Number of events of each history row.
        dtypes: By feature.
        num_values: How many values all events have together, by feature that may have several.
    """

    def __init__(
        self,
        path: Path,
        *,
        lengths: NDArray[np.int64],
        dtypes: Mapping[str, np.dtype[Any]],
        num_values: Mapping[str, int],
    ) -> None:
        (path / VALUES).mkdir(parents=True)
        self._offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        np.save(path / OFFSETS, self._offsets)
        num_events = int(self._offsets[-1])
        self._arrays = {
            name: _create(path / VALUES / f"{name}.npy", dtype, num_values.get(name, num_events))
            for name, dtype in dtypes.items()
        }
        self.features = tuple(dtypes)
        counts = np.dtype(np.int64)
        if num_values:
            (path / VALUE_OFFSETS).mkdir()
        self._value_offsets = {
            name: _create(path / VALUE_OFFSETS / f"{name}.npy", counts, num_events + 1)
            for name in num_values
        }
        self._train_lengths = _create(path / TRAIN_LENGTHS, counts, len(lengths))

    def write(
        self,
        first: int,
        stop: int,
        *,
        values: Mapping[str, Column],
        is_train: NDArray[np.bool_],
    ) -> None:
        """Write history rows first ... stop - 1; all rows before `first` are written.

        Args:
            first: First history row.
            stop: History row after the last.
            values: By feature: those of all their events, in order.
            is_train: Whether each event trains.
        """
        begin, end = self._offsets[first], self._offsets[stop]
        for name, array in self._arrays.items():
            column = values[name]
            if isinstance(column, Ragged):
                offsets = self._value_offsets[name]
                offsets[begin + 1 : end + 1] = offsets[begin] + np.cumsum(column.lengths)
                array[offsets[begin] : offsets[end]] = column.values
            else:
                array[begin:end] = column
        offsets = self._offsets[first : stop + 1] - begin
        self._train_lengths[first:stop] = train_prefixes(offsets, is_train)

    def close(self) -> None:
        """Write everything to disk."""
        offsets = self._value_offsets.values()
        for array in (*self._arrays.values(), *offsets, self._train_lengths):
            array.flush()


def train_prefixes(offsets: NDArray[np.int64], is_train: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of training events of each history; -1 where they are not its first events.

    Args:
        offsets: Start of each history in `is_train`, and the end of the last.
        is_train: Of every event.
    """
    before = np.concatenate([[0], np.cumsum(is_train, dtype=np.int64)])
    counts = before[offsets[1:]] - before[offsets[:-1]]
    in_prefix = before[offsets[:-1] + counts] - before[offsets[:-1]]
    return np.where(in_prefix == counts, counts, -1)


def _create(path: Path, dtype: np.dtype[Any], length: int) -> np.memmap:
    return open_memmap(path, mode="w+", dtype=dtype, shape=(length,))


def _open_all(path: Path) -> dict[str, Any]:
    return {file.stem: _open(file) for file in sorted(path.glob("*.npy"))}


def _open(path: Path) -> Any:
    """A plain array over the mapped file: indexing a np.memmap gives slow np.memmaps."""
    return np.asarray(np.load(path, mmap_mode="r"))
