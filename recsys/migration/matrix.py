"""New matrices out of old ones, a range of rows at a time.

V new rows · R rows of a range · D width · S entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.migration.sources import Entries, Sources

ROWS_AT_ONCE_BYTES = 16 << 20

Matrix = NDArray[np.float16 | np.float32]


class Readable(Protocol):
    """A place that rows are read from."""

    def rows(self, rows_S: NDArray[np.int64], columns: slice) -> Matrix:
        """Some rows, of some columns."""
        ...


@dataclass(frozen=True)
class Place:
    """Columns of something that rows are read from.

    Attributes:
        of: What is read, by name.
        columns: Of it.
    """

    of: str
    columns: slice


@dataclass(frozen=True)
class Strip:
    """Neighbouring columns of a new table that come from the same places.

    Attributes:
        columns: Of the new table.
        sources: Where its rows come from.
        places: What the sources count.
    """

    columns: slice
    sources: Sources
    places: tuple[Place, ...]


@dataclass
class Counts:
    """What became of the rows of a table.

    Attributes:
        kept: Rows that are old ones to the last bit, as far as they go.
        merged: Rows that are means of several.
        initialised: Rows without a source.
    """

    kept: int = 0
    merged: int = 0
    initialised: int = 0


def fill(
    out: Matrix,
    strips: Sequence[Strip],
    read: Mapping[str, Readable],
    *,
    fresh: Callable[[Matrix, int], None],
) -> Counts:
    """Fill a new table.

    Args:
        out: (V, D), filled in place.
        strips: Of its columns.
        read: All that strips name.
        fresh: Fills a range of rows, which starts at some row, with what a new table has there.
    """
    counts = Counts()
    for low, high in ranges(out):
        rows_RD = np.empty((high - low, out.shape[1]), dtype=out.dtype)
        fresh(rows_RD, low)
        sources_R = np.zeros(high - low, dtype=np.int8)
        for strip in strips:
            entries = strip.sources.within(low, high)
            places = [(read[place.of], place.columns) for place in strip.places]
            found_R = gather(rows_RD[:, strip.columns], entries, places, low=low)
            sources_R = np.maximum(sources_R, found_R)
        out[low:high] = rows_RD
        counts.initialised += int((sources_R == 0).sum())
        counts.kept += int((sources_R == 1).sum())
        counts.merged += int((sources_R == 2).sum())
    return counts


def gather(
    rows_RD: Matrix,
    entries: Entries,
    places: Sequence[tuple[Readable, slice]],
    *,
    low: int,
) -> NDArray[np.int8]:
    """Put what entries say into a range of rows; gives how many sources each has, 2 for more.

    Args:
        rows_RD: The columns of the range.
        entries: Merged, of the range.
        places: That are read, with their columns.
        low: First row of the range.
    """
    here_S = entries.new_S - low
    num_R = np.bincount(here_S, minlength=len(rows_RD)).astype(np.int64)
    is_single_S = num_R[here_S] == 1
    for place in np.unique(entries.place_S):
        chosen = is_single_S & (entries.place_S == place)
        readable, columns = places[place]
        rows_RD[here_S[chosen]] = readable.rows(entries.old_S[chosen], columns)
    is_several_R = num_R > 1
    if is_several_R.any():
        chosen = ~is_single_S
        _add_means(rows_RD, _chosen(entries, chosen), here_S[chosen], places)
    return np.minimum(num_R, 2).astype(np.int8)


def of_rows(strips: Sequence[Strip]) -> Strip:
    """Of a number per row: that of the rows which the strips come from, weighted by their widths.

    Args:
        strips: Of a table's columns.
    """
    names = list(dict.fromkeys(place.of for strip in strips for place in strip.places))
    return Strip(
        slice(0, 1),
        _OfRows(tuple(strips), {name: number for number, name in enumerate(names)}),
        tuple(Place(name, slice(0, 1)) for name in names),
    )


@dataclass(frozen=True)
class _OfRows:
    strips: tuple[Strip, ...]
    numbers: Mapping[str, int]

    def within(self, low: int, high: int) -> Entries:
        """The merged entries of a range of new rows."""
        found = []
        for strip in self.strips:
            entries = strip.sources.within(low, high)
            numbers = np.array([self.numbers[place.of] for place in strip.places], dtype=np.int16)
            width = strip.columns.stop - strip.columns.start
            found.append(
                Entries(
                    entries.new_S,
                    numbers[entries.place_S],
                    entries.old_S,
                    entries.weight_S * np.float32(width),
                )
            )
        return Entries.joined(found).merged()


def ranges(out: Matrix) -> list[tuple[int, int]]:
    """Ranges of rows that are held in memory at once."""
    row_bytes = max(1, out.itemsize * int(np.prod(out.shape[1:])))
    step = max(1, ROWS_AT_ONCE_BYTES // row_bytes)
    return [(low, min(low + step, len(out))) for low in range(0, len(out), step)]


def _chosen(entries: Entries, chosen: NDArray[np.bool_]) -> Entries:
    return Entries(
        entries.new_S[chosen],
        entries.place_S[chosen],
        entries.old_S[chosen],
        entries.weight_S[chosen],
    )


def _add_means(
    rows_RD: Matrix,
    entries: Entries,
    here_S: NDArray[np.int64],
    places: Sequence[tuple[Readable, slice]],
) -> None:
    """Weighted means, in double precision."""
    starts = np.flatnonzero(np.r_[True, here_S[1:] != here_S[:-1]])
    group_S = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(here_S)]))
    sums_GD = np.zeros((len(starts), rows_RD.shape[1]))
    at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * max(1, rows_RD.shape[1])))
    for place in np.unique(entries.place_S):
        readable, columns = places[place]
        of_place = np.flatnonzero(entries.place_S == place)
        for first in range(0, len(of_place), at_once):
            part = of_place[first : first + at_once]
            values = readable.rows(entries.old_S[part], columns).astype(np.float64)
            np.add.at(sums_GD, group_S[part], values * entries.weight_S[part, None])
    totals_G = np.bincount(group_S, weights=entries.weight_S)
    rows_RD[here_S[starts]] = sums_GD / totals_G[:, None]
