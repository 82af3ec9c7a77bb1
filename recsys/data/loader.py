"""Batches of a rank: reading, collating and prefetching beside training."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from features import columns
from features.errors import RunConfigError
from recsys.data.collate import Collate
from recsys.data.lanes import LaneReader, Shuffle, cut_lanes
from recsys.data.rows import Rows, numbers
from recsys.data.sources import Pieces, RowSource
from recsys.types import Batch

# Enough to ride out a garbage collection or a slow batch; more only takes memory.
_PREFETCHED = 4


class BatchLoader:
    """The batches of one rank, again for every iteration.

    Training: shuffled by seed and epoch. The rows of global batch t are the same for every number
    of ranks and workers. Evaluation: in file order, rank after rank, each row once.
    All ranks have as many batches, of as many rows; the last is filled up with rows of weight 0,
    and in training its real rows weigh more, so that the mean of `sum(weight * loss) / B` over
    all ranks is the mean over its real rows.

    Args:
        source: All rows; with the column WEIGHT.
        collate: Makes batches of rows.
        batch_size: Rows of a global batch, over all ranks.
        training: Whether to shuffle.
        seed: Of the shuffling.
        rank: Of this process.
        world_size: Number of ranks.
        num_lanes: Ranges of rows that are read at once in training, over all ranks; each global
            batch has rows of all.
        pool_rows: Rows of a lane that are shuffled together, and kept in memory twice.
        num_workers: Processes that make batches; each decodes all rows of the rank, so that they
            pay only where making batches takes longer than decoding. 0: a thread does both.

    Raises:
        RunConfigError: the sizes do not divide.
    """

    def __init__(
        self,
        source: RowSource,
        *,
        collate: Collate,
        batch_size: int,
        training: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_lanes: int = 8,
        pool_rows: int = 65_536,
        num_workers: int = 0,
    ) -> None:
        self.batch_size = batch_size
        self.num_lanes = num_lanes if training else world_size
        check_sizes(batch_size, self.num_lanes, world_size=world_size, training=training)
        self.epoch = 0
        self.start_batch = 0
        self._source = source
        self._collate = collate
        self._training = training
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._pool_rows = pool_rows
        self._num_workers = num_workers

    def set_epoch(self, epoch: int, *, start_batch: int = 0) -> None:
        """Choose what the next iteration gives.

        Args:
            epoch: From 0.
            start_batch: First batch of it, to go on where a run was cut off.
        """
        self.epoch = epoch
        self.start_batch = start_batch

    @property
    def num_rows(self) -> int:
        """Rows of an epoch, over all ranks, each counted once."""
        return int(self._source.chunk_lengths.sum())

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        longest_lane = -(-self.num_rows // self.num_lanes)
        return -(-longest_lane // (self.batch_size // self.num_lanes))

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the epoch, from `start_batch` on."""
        batch_numbers = range(self.start_batch, len(self))
        if self._num_workers == 0:
            return _prefetch(self, self.epoch, batch_numbers)
        loader = DataLoader(
            _WorkerBatches(self, self.epoch, batch_numbers),
            batch_size=None,
            num_workers=self._num_workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # else it draws from the generator of the training
        )
        return iter(loader)

    def open_epoch(self, epoch: int, *, executor: Executor) -> EpochReader:
        """What makes the batches of an epoch.

        Args:
            epoch: From 0.
            executor: Runs the reading ahead.
        """
        shuffle = Shuffle(self._seed, epoch) if self._training else None
        lanes = cut_lanes(
            self._source.chunk_lengths,
            num_lanes=self.num_lanes,
            pool_rows=self._pool_rows,
            shuffle=shuffle,
        )
        readers = [
            LaneReader(lane, source=self._source, shuffle=shuffle, executor=executor)
            for lane in lanes
        ]
        return EpochReader(
            readers,
            source=self._source,
            collate=self._collate,
            lane_batch=self.batch_size // self.num_lanes,
            own=slice(self._rank, None, self._world_size),
            training=self._training,
        )


class EpochReader:
    """Makes the batches of one epoch, in rising order of their numbers.

    Args:
        readers: Of all lanes.
        source: Where a row comes from where this rank has none.
        collate: Makes batches of rows.
        lane_batch: Rows of each lane in a batch.
        own: The lanes of this rank.
        training: Whether the real rows of a filled-up batch weigh more.
    """

    def __init__(
        self,
        readers: list[LaneReader],
        *,
        source: RowSource,
        collate: Collate,
        lane_batch: int,
        own: slice,
        training: bool,
    ) -> None:
        self._readers = readers[own]
        self._lengths = np.array([len(reader) for reader in readers])
        self._num_own = len(self._readers)
        self._source = source
        self._collate = collate
        self._lane_batch = lane_batch
        self._training = training

    def batch(self, number: int) -> Batch:
        """One batch of this rank."""
        return self._collate(self.rows(number))

    def rows(self, number: int) -> Rows:
        """The rows of one batch of this rank."""
        start = number * self._lane_batch
        counts = np.clip(self._lengths - start, 0, self._lane_batch)  # real rows of each lane
        parts = [
            part
            for reader in self._readers
            for part in reader.read(start, min(start + self._lane_batch, len(reader)))
        ]
        rows = Rows.concatenate(parts or [self._any_row()])
        num_real = len(rows) if parts else 0
        num_filled = int(counts.max()) * self._num_own
        if counts.min() < counts.max():
            scale = counts.max() * len(counts) / counts.sum() if self._training else 1.0
            rows = _filled(rows, num_real=num_real, num_rows=num_filled, scale=scale)
        assert len(rows) == num_filled
        return rows

    def _any_row(self) -> Rows:
        chunk = np.flatnonzero(self._source.chunk_lengths)[:1]
        return self._source.read(Pieces(chunk, np.zeros(1, np.int64), np.ones(1, np.int64)))


class _WorkerBatches(IterableDataset[Batch]):
    """What a worker process makes: every batch whose number is its own, modulo the workers."""

    def __init__(self, loader: BatchLoader, epoch: int, batch_numbers: range) -> None:
        self._loader = loader
        self._epoch = epoch
        self._batch_numbers = batch_numbers

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        own = self._batch_numbers
        if info is not None:
            own = own[info.id :: info.num_workers]
        with ThreadPoolExecutor(1, "read-ahead") as executor:
            epoch = self._loader.open_epoch(self._epoch, executor=executor)
            for number in own:
                yield epoch.batch(number)


def _prefetch(loader: BatchLoader, epoch: int, batch_numbers: range) -> Iterator[Batch]:
    """Batches made in a thread, some ahead; dropping the iterator ends the threads."""
    reading, making = ThreadPoolExecutor(1, "read-ahead"), ThreadPoolExecutor(1, "make-batches")
    pending: deque[Future[Batch]] = deque()
    try:
        reader = loader.open_epoch(epoch, executor=reading)
        for number in batch_numbers:
            pending.append(making.submit(reader.batch, number))
            if len(pending) > _PREFETCHED:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        making.shutdown(cancel_futures=True)
        reading.shutdown(cancel_futures=True)


def _filled(rows: Rows, *, num_real: int, num_rows: int, scale: float) -> Rows:
    """The real rows with scaled weights, then copies of the first with weight 0."""
    index = np.zeros(num_rows, np.int64)
    index[:num_real] = np.arange(num_real)
    filled = rows.take(index)
    weights_B = numbers(filled[columns.WEIGHT]) * np.float32(scale)
    weights_B[num_real:] = 0
    return filled.replaced(columns.WEIGHT, weights_B)


def _unchanged(batch: Any) -> Any:
    return batch


def check_sizes(batch_size: int, num_lanes: int, *, world_size: int, training: bool) -> None:
    """Check that every rank has the same number of lanes, and every lane of rows.

    Args:
        batch_size: Rows of a global batch.
        num_lanes: Lanes of all ranks.
        world_size: Number of ranks.
        training: Which batch size it is, for the message.

    Raises:
        RunConfigError: the sizes do not divide.
    """
    mistakes = []
    if num_lanes % world_size:
        mistakes.append(
            f"data.num_lanes: must be a multiple of the number of ranks, got {num_lanes} with "
            f"{world_size} ranks; allowed {world_size}, {2 * world_size}, ...; set it so"
        )
    if batch_size < num_lanes or batch_size % num_lanes:
        name, why = "data.batch_size", f"data.num_lanes = {num_lanes}"
        if not training:
            name, why = "data.eval_batch_size", f"the number of ranks, {num_lanes}"
        nearest = max(1, round(batch_size / num_lanes)) * num_lanes
        mistakes.append(
            f"{name}: must be a multiple of {why}, got {batch_size}; "
            f"allowed {num_lanes}, {2 * num_lanes}, ...; set {name}: {nearest}"
        )
    if mistakes:
        raise RunConfigError(mistakes)
