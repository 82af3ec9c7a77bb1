"""Batches of a rank: reading, collating and prefetching beside training."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from features import columns
from features.errors import RecsysError, RunConfigError, SchemaMismatchError
from recsys.data.collate import Collate
from recsys.data.jagged import UnknownIdsError
from recsys.data.lanes import LaneReader, Shuffle, cut_lanes
from recsys.data.origins import Origins
from recsys.data.rows import Rows, numbers
from recsys.data.sources import ParquetSource, Pieces, RowSource
from recsys.types import Batch

# Enough to ride out a garbage collection or a slow batch; more only takes memory.
_PREFETCHED = 4
# Rows that are taken from the lanes at once: enough that small batches cost no more per row.
_BLOCK_ROWS = 4096
_MEND = "delete the store, and it is built again"


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
        origins: Knows where wrong ids come from. None: messages do not say.

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
        origins: Origins | None = None,
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
        self._origins = origins
        self._is_pinned = False

    def pin(self) -> None:
        """From now on put batches in page-locked memory: a GPU copies them beside its work."""
        self._is_pinned = True

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
        """The batches of the epoch, from `start_batch` on.

        Raises:
            DataError: a file is damaged, or is no encoded data.
            SchemaMismatchError: a row has ids that the schema does not know.
        """
        return self._read(self.epoch, range(self.start_batch, len(self)))

    def _read(self, epoch: int, batch_numbers: range) -> Iterator[Batch]:
        try:
            yield from self._batches(epoch, batch_numbers)
        except UnknownIdsError as error:
            raise SchemaMismatchError(self._with_origins(error, epoch=epoch)) from None

    def _batches(self, epoch: int, batch_numbers: range) -> Iterator[Batch]:
        if self._num_workers == 0:
            yield from _prefetch(self, epoch, batch_numbers)
            return
        loader = DataLoader(
            _WorkerBatches(self, epoch, batch_numbers),
            batch_size=None,
            num_workers=self._num_workers,
            collate_fn=_unchanged,
            pin_memory=self._is_pinned,
            generator=torch.Generator(),  # else it draws from the generator of the training
        )
        for batch in loader:
            if isinstance(batch, RecsysError):  # raised there, a trace would be added to it
                raise batch
            yield batch

    def _with_origins(self, error: UnknownIdsError, *, epoch: int) -> list[str]:
        """The mistakes with files, rows and raw values."""
        if self._origins is None or error.batch is None:
            return list(error.mistakes)
        again, source = copy.copy(self), self._source.with_places()
        again._source = source
        with ThreadPoolExecutor(1) as executor:
            rows = again.open_epoch(epoch, executor=executor).rows(error.batch)
        files = source.files if isinstance(source, ParquetSource) else ()
        mistakes = []
        for item in error.found:
            row = rows.take(np.array([item.example]))
            origin = self._origins.of_id(row, key=item.key, files=files)
            mistakes.append(item.message(origin=origin, remedy=_MEND))
        return mistakes

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
            # Worker processes have no GPU: what they made is copied by the process that trains.
            is_pinned=self._is_pinned and self._num_workers == 0,
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
        is_pinned: Whether batches are to lie in page-locked memory.
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
        is_pinned: bool = False,
    ) -> None:
        self._readers = readers[own]
        self._lengths = np.array([len(reader) for reader in readers])
        self._num_own = len(self._readers)
        self._source = source
        self._collate = collate
        self._lane_batch = lane_batch
        self._training = training
        self._batches_per_block = max(1, _BLOCK_ROWS // (lane_batch * max(1, self._num_own)))
        self._block_number = -1
        self._block: Rows | None = None
        self._is_pinned = is_pinned

    def batch(self, number: int) -> Batch:
        """One batch of this rank."""
        try:
            batch = self._collate(self.rows(number))
            return batch.pin_memory() if self._is_pinned else batch
        except UnknownIdsError as error:
            raise UnknownIdsError(error.found, batch=number) from None

    def rows(self, number: int) -> Rows:
        """The rows of one batch of this rank."""
        block_number, place = divmod(number, self._batches_per_block)
        end = (block_number + 1) * self._batches_per_block * self._lane_batch
        if self._batches_per_block == 1 or end > self._lengths.min():
            return self._single(number)
        if block_number != self._block_number:
            self._block, self._block_number = self._read_block(block_number), block_number
        assert self._block is not None
        size = self._lane_batch * self._num_own
        return self._block.slice(place * size, (place + 1) * size)

    def _read_block(self, number: int) -> Rows:
        """The rows of some batches, batch after batch; all lanes have that many."""
        size = self._batches_per_block * self._lane_batch
        lanes = [reader.read(number * size, (number + 1) * size) for reader in self._readers]
        rows = Rows.concatenate([part for parts in lanes for part in parts])
        shape = (self._num_own, self._batches_per_block, self._lane_batch)
        return rows.take(np.arange(len(rows)).reshape(shape).swapaxes(0, 1).reshape(-1))

    def _single(self, number: int) -> Rows:
        """The rows of one batch, which may have to be filled up."""
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


class _WorkerBatches(IterableDataset[Batch | RecsysError]):
    """What a worker process makes: every batch whose number is its own, modulo the workers.

    A mistake in the data comes in place of a batch, and is the last.
    """

    def __init__(self, loader: BatchLoader, epoch: int, batch_numbers: range) -> None:
        self._loader = loader
        self._epoch = epoch
        self._batch_numbers = batch_numbers

    def __iter__(self) -> Iterator[Batch | RecsysError]:
        info = get_worker_info()
        own = self._batch_numbers
        if info is not None:
            own = own[info.id :: info.num_workers]
        with ThreadPoolExecutor(1, "read-ahead") as executor:
            epoch = self._loader.open_epoch(self._epoch, executor=executor)
            for number in own:
                try:
                    yield epoch.batch(number)
                except RecsysError as error:
                    yield error
                    return


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
