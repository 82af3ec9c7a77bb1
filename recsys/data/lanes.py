"""Which rows make which batch, whatever the number of ranks and workers.

The chunks of an epoch, permuted, are a stream of rows. It is cut into `num_lanes` ranges of equal
length. Each global batch takes the same number of rows from every lane, and a rank owns whole
lanes: it never reads the others. Within a lane, rows are shuffled in pools of neighbouring pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recsys.data.rows import Rows
from recsys.data.sources import Pieces, RowSource


@dataclass(frozen=True)
class Shuffle:
    """How an epoch is shuffled.

    Attributes:
        seed: Of the run.
        epoch: From 0; each has an order of its own.
    """

    seed: int
    epoch: int


@dataclass(frozen=True)
class Lane:
    """One range of the stream.

    Attributes:
        number: Of the lane.
        pieces: Its pieces of chunks, in order.
        pool_bounds: First piece of each pool, and the number of pieces.
        pool_starts: First row of each pool within the lane, and the number of rows.
    """

    number: int
    pieces: Pieces
    pool_bounds: NDArray[np.int64]
    pool_starts: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.pool_starts[-1])


def cut_lanes(
    chunk_lengths: NDArray[np.int64], *, num_lanes: int, pool_rows: int, shuffle: Shuffle | None
) -> list[Lane]:
    """Cut the stream of an epoch into lanes; their lengths differ by one row at most.

    Args:
        chunk_lengths: Rows of each chunk.
        num_lanes: Number of ranges.
        pool_rows: Rows that are read at once, about.
        shuffle: How chunks are permuted. None: they stay in order.
    """
    order = np.arange(len(chunk_lengths))
    if shuffle is not None:
        order = np.random.default_rng([shuffle.seed, shuffle.epoch]).permutation(order)
    lengths = chunk_lengths[order]
    ends = np.cumsum(lengths)
    begins = ends - lengths
    total = int(lengths.sum())
    cuts = [lane * total // num_lanes for lane in range(num_lanes + 1)]
    lanes = []
    for number, (start, stop) in enumerate(pairwise(cuts)):
        inside = np.flatnonzero((ends > start) & (begins < stop) & (lengths > 0))
        if start == stop:
            inside = inside[:0]
        first = np.maximum(begins[inside], start)
        counts = np.minimum(ends[inside], stop) - first
        pieces = Pieces(order[inside], first - begins[inside], counts)
        lanes.append(_pooled(number, pieces, first - start, pool_rows=pool_rows))
    return lanes


class LaneReader:
    """Reads a lane from some row on, always one pool ahead.

    Args:
        lane: What to read.
        source: Where from.
        shuffle: How rows are permuted within a pool. None: they stay in order.
        executor: Runs the reading ahead.
    """

    def __init__(
        self, lane: Lane, *, source: RowSource, shuffle: Shuffle | None, executor: Executor
    ) -> None:
        self._lane = lane
        self._source = source
        self._shuffle = shuffle
        self._executor = executor
        self._pools: dict[int, Future[Rows]] = {}

    def __len__(self) -> int:
        """Number of rows of the lane."""
        return len(self._lane)

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        """Rows start ... stop - 1 of the lane, in parts; later calls must not go back."""
        starts = self._lane.pool_starts
        while start < stop:
            number = int(np.searchsorted(starts, start, side="right")) - 1
            end = min(stop, int(starts[number + 1]))
            pool = self._pool(number)
            yield pool.slice(start - int(starts[number]), end - int(starts[number]))
            start = end

    def _pool(self, number: int) -> Rows:
        for past in [n for n in self._pools if n < number]:
            del self._pools[past]
        for wanted in (number, number + 1):
            if wanted not in self._pools and wanted < len(self._lane.pool_bounds) - 1:
                self._pools[wanted] = self._executor.submit(self._load, wanted)
        return self._pools[number].result()

    def _load(self, number: int) -> Rows:
        inside = slice(*self._lane.pool_bounds[number : number + 2])
        pieces = self._lane.pieces
        rows = self._source.read(
            Pieces(pieces.chunks[inside], pieces.starts[inside], pieces.lengths[inside])
        )
        if self._shuffle is None:
            return rows
        seeds = [self._shuffle.seed, self._shuffle.epoch, self._lane.number, number]
        return rows.take(np.random.default_rng(seeds).permutation(len(rows)))


def _pooled(number: int, pieces: Pieces, begins: NDArray[np.int64], *, pool_rows: int) -> Lane:
    """A lane with a new pool at the first piece that begins in each stretch of `pool_rows`."""
    stretch = begins // pool_rows
    first = np.flatnonzero(np.diff(stretch, prepend=-1))
    total = int(pieces.lengths.sum())
    return Lane(
        number=number,
        pieces=pieces,
        pool_bounds=np.append(first, len(begins)),
        pool_starts=np.append(begins[first], total),
    )
