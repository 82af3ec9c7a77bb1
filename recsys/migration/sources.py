"""Where the rows of a new physical table come from.

S entries of (new row, place that is read, old row, weight), by rising new row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.migration.ids import IdSources
from recsys.tables.logical import Reader
from recsys.tables.scheme import Lookup, Scheme

_IDS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Entries:
    """Some rows with what they come from.

    Attributes:
        new_S: Rows of the new table, rising.
        place_S: Which of the places that are read.
        old_S: Rows there.
        weight_S: How much each counts in the mean, where a row has several.
    """

    new_S: NDArray[np.int64]
    place_S: NDArray[np.int16]
    old_S: NDArray[np.int64]
    weight_S: NDArray[np.float32]

    def __len__(self) -> int:
        """S."""
        return len(self.new_S)

    def merged(self) -> Entries:
        """In order, one entry for each pair of a row and what it comes from."""
        order = np.lexsort((self.old_S, self.place_S, self.new_S))
        new_S, place_S, old_S = self.new_S[order], self.place_S[order], self.old_S[order]
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (
            (new_S[1:] != new_S[:-1]) | (place_S[1:] != place_S[:-1]) | (old_S[1:] != old_S[:-1])
        )
        starts = is_first.nonzero()[0]
        weights = np.add.reduceat(self.weight_S[order], starts) if len(starts) else self.weight_S
        return Entries(new_S[starts], place_S[starts], old_S[starts], weights)

    @staticmethod
    def joined(parts: Sequence[Entries]) -> Entries:
        """Entries of several parts, not in order."""
        if not parts:
            nothing = np.zeros(0, dtype=np.int64)
            return Entries(nothing, nothing.astype(np.int16), nothing, nothing.astype(np.float32))
        return Entries(
            np.concatenate([part.new_S for part in parts]),
            np.concatenate([part.place_S for part in parts]),
            np.concatenate([part.old_S for part in parts]),
            np.concatenate([part.weight_S for part in parts]),
        )


class Sources(Protocol):
    """Where all rows of a table come from."""

    def within(self, low: int, high: int) -> Entries:
        """The merged entries of a range of new rows."""
        ...


@dataclass(frozen=True)
class SameRows:
    """Each row is the same one as before; in a table of several times the rows they repeat.

    Attributes:
        num_old: Rows before.
    """

    num_old: int

    def within(self, low: int, high: int) -> Entries:
        """The merged entries of a range of new rows."""
        new_S = np.arange(low, high)
        nothing = np.zeros(len(new_S), dtype=np.int16)
        return Entries(new_S, nothing, new_S % self.num_old, np.ones(len(new_S), np.float32))


@dataclass(frozen=True)
class Piece:
    """Ids of one feature whose rows in one table come from one place.

    Attributes:
        ids: Old ids of new ones.
        scheme: The new one.
        reader: Of the new table, for the feature's ids.
        lookup: Which of its lookups reads the new table.
        place: Number of the place that is read.
        old_rows: Rows there of old ids.
        first_row: Of the feature's own rows in the new table, one for each id; None: by a hash.
    """

    ids: IdSources
    scheme: Scheme
    reader: Reader
    lookup: Lookup
    place: int
    old_rows: OldRows
    first_row: int | None

    def entries(self, low: int, high: int) -> Entries:
        """Entries of a range of new ids."""
        new_S, old_S, weight_S = self.ids.within(low, high)
        rows_S = rows_of(self.scheme, self.reader, new_S)[self.lookup.name]
        places = np.full(len(new_S), self.place, dtype=np.int16)
        return Entries(rows_S, places, self.old_rows(old_S), weight_S)


class OldRows(Protocol):
    """Gives rows of old ids at the place that is read."""

    def __call__(self, ids_S: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows by id."""
        ...


@dataclass(frozen=True)
class LookupRows:
    """The rows that a lookup of the old scheme reads."""

    scheme: Scheme
    reader: Reader
    lookup: Lookup

    def __call__(self, ids_S: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows by id."""
        return rows_of(self.scheme, self.reader, ids_S)[self.lookup.name]


class IdRows:
    """The id itself: of a place that gives whole vectors of ids."""

    def __call__(self, ids_S: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids."""
        return ids_S


class OwnRows:
    """Of a table with a row for every id: found range by range, so that memory is bounded.

    Args:
        pieces: Of all features, each with a first row.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = tuple(pieces)

    def within(self, low: int, high: int) -> Entries:
        """The merged entries of a range of new rows."""
        found = []
        for piece in self.pieces:
            assert piece.first_row is not None, "a row for every id"
            found.append(piece.entries(low - piece.first_row, high - piece.first_row))
        return Entries.joined(found).merged()


class HashedRows:
    """Of a table whose rows are hashed: all entries are found and sorted once.

    Args:
        pieces: Of all features.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        found = []
        for piece in pieces:
            assert piece.ids.num_new is not None, "ids without a bound are not known"
            starts = range(0, piece.ids.num_new, _IDS_AT_ONCE)
            found += [piece.entries(low, low + _IDS_AT_ONCE) for low in starts]
        self.entries = Entries.joined(found).merged()

    def within(self, low: int, high: int) -> Entries:
        """The merged entries of a range of new rows."""
        part = slice(*np.searchsorted(self.entries.new_S, [low, high]))
        of = self.entries
        return Entries(of.new_S[part], of.place_S[part], of.old_S[part], of.weight_S[part])


def rows_of(
    scheme: Scheme, reader: Reader, ids_S: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """Rows of a reader's ids, by lookup."""
    nothing = torch.zeros(0, dtype=torch.int64)
    ids = {r.key: nothing for r in scheme.table.readers}
    ids[reader.key] = torch.from_numpy(np.ascontiguousarray(ids_S))
    found = scheme.remap(ids)
    return {x.name: found[x.name].numpy() for x in scheme.lookups if x.reader == reader.key}
