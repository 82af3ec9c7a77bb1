"""Rows and batches of sequence tasks: a user per training row, an event per evaluation row."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from features import columns
from features.columns import time_column
from features.errors import DataError
from features.spec import Sequence
from recsys.data.item_sequence import ItemSequence
from recsys.data.jagged import Ids, check_ids, keyed_jagged
from recsys.data.layout import position_column
from recsys.data.rows import Array, Rows, integers, numbers, ranges
from recsys.data.sequence_reader import SequenceReader
from recsys.data.sources import MemorySource, ParquetSource
from recsys.data.store import EncodedStore
from recsys.types import Batch

_MAX_NAMED = 3


def check_training_events(store: EncodedStore, items: ItemSequence) -> None:
    """Check that training sees no event that comes after one of validation or test.

    Raises:
        DataError: the training events of a user are not the first of the history.
    """
    torn = np.flatnonzero(store.histories_of(items.feature).train_lengths < 0)
    if len(torn):
        raw = store.read_users()
        named = ", ".join(repr(raw[int(user)]) for user in torn[:_MAX_NAMED])
        raise DataError(
            f"split: the training events of a user must be the first of the history, "
            f"got {len(torn)} users with later ones (user {named}); allowed for sequence tasks "
            f"leave_one_out, temporal; set split: {{kind: leave_one_out}}"
        )


def training_source(
    store: EncodedStore, items: ItemSequence, *, window_step: int | None = None
) -> MemorySource:
    """A row per window of each user with two training events or more.

    Args:
        store: Has the histories.
        items: What is predicted.
        window_step: Events between the ends of two windows of a long history, at most the
            sequence's `max_length`; the last window ends with the last training event. None: only
            that one.
    """
    train_lengths = store.histories_of(items.feature).train_lengths
    users = np.flatnonzero(train_lengths >= 2)
    ends = train_lengths[users]
    if window_step is not None:
        # Of a history of n events, all but the first window's are read before: it is the first
        # that reaches back to the beginning.
        unread = np.maximum(ends - items.feature.max_length - 1, 0)
        counts = 1 + -(-unread // window_step)
        users, ends = users.repeat(counts), ends.repeat(counts)
        ends = ends - window_step * ranges(np.zeros_like(counts), counts)
    rows = history_columns(store, items.feature, users=users, ends=ends)
    rows[columns.WEIGHT] = np.ones(len(users), np.float32)
    return MemorySource(Rows(rows, len(users)))


def count_items(store: EncodedStore, items: ItemSequence) -> NDArray[np.int64]:
    """Training events of each id of the catalogue."""
    histories = store.histories_of(items.feature)
    index_L = ranges(histories.offsets[:-1], np.maximum(histories.train_lengths, 0))
    num_ids = store.schema.num_ids(items.item)
    assert num_ids is not None, "an item catalogue is bounded"
    return np.bincount(histories.values(items.item)[index_L], minlength=num_ids)


def history_columns(
    store: EncodedStore,
    sequence: Sequence,
    *,
    users: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> dict[str, Array]:
    """What a reader of the sequence needs of rows that no event belongs to.

    Where nothing is known to come next, the question is asked at the time of the last event, or
    at 0 where there is none.

    Args:
        store: Has the histories.
        sequence: What is read.
        users: History rows.
        ends: Number of events that are read of each.
    """
    found: dict[str, Array] = {columns.USER: users, position_column(sequence): ends}
    if sequence.times is not None:
        time = time_column(sequence.name)
        found[time] = store.histories_of(sequence).last(users, ends, feature=time)
    return found


class SequenceTrainingCollate:
    """Batches of training histories; targets are the task's to make.

    A history keeps the `max_length` + 1 most recent events, so that a model that predicts the
    next item reads `max_length` of them. Its last event being a target already, the time of the
    question after it is that of the event once more.

    Args:
        store: Has the histories.
        items: What is predicted.
    """

    def __init__(self, store: EncodedStore, items: ItemSequence) -> None:
        self._reader = _reader(store, items, max_length=items.feature.max_length + 1)
        self.columns = (*self._reader.columns, columns.WEIGHT)

    def __call__(self, rows: Rows) -> Batch:
        """One batch of all the rows."""
        none = torch.zeros(0, dtype=torch.int64)
        return _batch(rows, self._reader, targets_B=none, seen_values=none, seen_lengths_B=none)


def evaluation_source(store: EncodedStore, items: ItemSequence, *, split: str) -> ParquetSource:
    """A row per example of a split."""
    names = SequenceEvaluationCollate(store, items).columns
    return ParquetSource(store.example_files(split), columns=names)


class SequenceEvaluationCollate:
    """Batches of events to predict, each with the history before it and what the user has seen.

    Args:
        store: Has the histories.
        items: What is predicted.
    """

    def __init__(self, store: EncodedStore, items: ItemSequence) -> None:
        assert store.histories is not None, "sequences need a user column"
        self._reader = _reader(store, items, max_length=items.feature.max_length)
        self._all_events = store.histories
        self._item, self._num_items = items.item, store.schema.num_ids(items.item)
        self._seen_key = items.keys[0]
        names = [*self._reader.columns, columns.POSITION, items.item, columns.WEIGHT]
        self.columns = tuple(dict.fromkeys(names))

    def __call__(self, rows: Rows) -> Batch:
        """One batch of all the rows."""
        [seen], seen_lengths_B = self._all_events.slice(
            integers(rows[columns.USER]), integers(rows[columns.POSITION]), features=[self._item]
        )
        targets_B, seen_values = integers(rows[self._item]), integers(seen)
        check_ids(
            [
                Ids(self._item, targets_B, None, self._num_items),
                Ids(self._seen_key, seen_values, seen_lengths_B, self._num_items),
            ]
        )
        return _batch(
            rows,
            self._reader,
            targets_B=torch.from_numpy(targets_B),
            seen_values=torch.from_numpy(seen_values),
            seen_lengths_B=torch.from_numpy(seen_lengths_B),
        )


def _reader(store: EncodedStore, items: ItemSequence, *, max_length: int) -> SequenceReader:
    return SequenceReader(
        store.schema,
        items.feature,
        histories=store.histories_of(items.feature),
        max_length=max_length,
    )


def _batch(
    rows: Rows,
    reader: SequenceReader,
    *,
    targets_B: torch.Tensor,
    seen_values: torch.Tensor,
    seen_lengths_B: torch.Tensor,
) -> Batch:
    return Batch(
        ids=None,
        sequences=keyed_jagged(reader.ids(rows), num_rows=len(rows)),
        dense_BN=torch.zeros(len(rows), 0),
        labels_BT=torch.zeros(len(rows), 0),
        weights_B=torch.from_numpy(numbers(rows[columns.WEIGHT])),
        users_B=torch.from_numpy(integers(rows[columns.USER])),
        targets_B=targets_B,
        seen_values=seen_values,
        seen_lengths_B=seen_lengths_B,
    )
