"""Rows and batches of sequence tasks: a user per training row, an event per evaluation row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from features import columns
from features.columns import sequence_column
from features.errors import DataError, FeatureConfigError
from features.spec import FeatureSet, Sequence
from recsys.data.collate import Ids, integers, keyed_jagged, numbers
from recsys.data.histories import Histories
from recsys.data.layout import item_feature, position_column
from recsys.data.rows import Rows
from recsys.data.sources import MemorySource, ParquetSource
from recsys.data.store import EncodedStore
from recsys.types import Batch

_MAX_NAMED = 3


@dataclass(frozen=True)
class ItemSequence:
    """The sequence that a sequence model continues.

    Attributes:
        item: The feature whose ids are the catalogue.
        feature: The sequence feature made of it.
    """

    item: str
    feature: Sequence

    @classmethod
    def of(cls, feature_set: FeatureSet) -> ItemSequence:
        """The one such sequence of a feature set.

        Raises:
            FeatureConfigError: it has no item feature, or not one sequence of it.
        """
        item = item_feature(feature_set)
        if item is None:
            raise FeatureConfigError(
                f"entity.item: a sequence task needs a categorical feature of this name, "
                f"got {feature_set.entity.item!r}; add it to features"
            )
        found = [s for s in feature_set.of_kind(Sequence) if item.name in s.columns]
        if len(found) != 1:
            names = ", ".join(s.name for s in found) or "none"
            raise FeatureConfigError(
                f"features: a sequence task needs one sequence of {item.name!r}, got {names}; "
                f"add or drop a feature {{kind: sequence, of: {item.name}}}"
            )
        return cls(item.name, found[0])


def check_training_events(store: EncodedStore, items: ItemSequence) -> None:
    """Check that training sees no event that comes after one of validation or test.

    Raises:
        DataError: the training events of a user are not the first of the history.
    """
    torn = np.flatnonzero(store.histories_of(items.feature).train_lengths < 0)
    if len(torn):
        raw = pl.read_parquet(store.users_file)["user"]
        named = ", ".join(repr(raw[int(user)]) for user in torn[:_MAX_NAMED])
        raise DataError(
            f"split: the training events of a user must be the first of the history, "
            f"got {len(torn)} users with later ones (user {named}); allowed for sequence tasks "
            f"leave_one_out, temporal; set split: {{kind: leave_one_out}}"
        )


def training_source(store: EncodedStore, items: ItemSequence) -> MemorySource:
    """A row per user with two training events or more; its history ends with the last of them."""
    train_lengths = store.histories_of(items.feature).train_lengths
    users = np.flatnonzero(train_lengths >= 2)
    rows = {
        columns.USER: users,
        position_column(items.feature): train_lengths[users],
        columns.WEIGHT: np.ones(len(users), np.float32),
    }
    return MemorySource(Rows(rows, len(users)))


class SequenceTrainingCollate:
    """Batches of training histories; targets are the task's to make.

    A history keeps the `max_length` + 1 most recent events, so that a model that predicts the
    next item reads `max_length` of them.

    Args:
        store: Has the histories.
        items: What is predicted.
    """

    def __init__(self, store: EncodedStore, items: ItemSequence) -> None:
        self._reader = _SequenceReader(
            store, items.feature, max_length=items.feature.max_length + 1
        )
        self.columns = (columns.USER, position_column(items.feature), columns.WEIGHT)

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
        self._reader = _SequenceReader(store, items.feature, max_length=items.feature.max_length)
        self._all_events = store.histories
        self._item = items.item
        names = [columns.USER, columns.POSITION, position_column(items.feature)]
        self.columns = tuple(dict.fromkeys([*names, items.item, columns.WEIGHT]))

    def __call__(self, rows: Rows) -> Batch:
        """One batch of all the rows."""
        [seen], seen_lengths_B = self._all_events.slice(
            integers(rows[columns.USER]), integers(rows[columns.POSITION]), features=[self._item]
        )
        return _batch(
            rows,
            self._reader,
            targets_B=torch.from_numpy(integers(rows[self._item])),
            seen_values=torch.from_numpy(seen.astype(np.int64)),
            seen_lengths_B=torch.from_numpy(seen_lengths_B),
        )


class _SequenceReader:
    """Reads the columns of one sequence feature."""

    def __init__(self, store: EncodedStore, sequence: Sequence, *, max_length: int) -> None:
        self._histories: Histories = store.histories_of(sequence)
        self._sequence = sequence
        self._num_ids = [store.schema.num_ids(of) for of in sequence.columns]
        self._max_length = max_length

    def ids(self, rows: Rows) -> list[Ids]:
        """Ids of all columns of the histories that end at the rows' positions."""
        of_columns = self._sequence.columns
        values, lengths_B = self._histories.slice(
            integers(rows[columns.USER]),
            integers(rows[position_column(self._sequence)]),
            features=of_columns,
            max_length=self._max_length,
        )
        keys = [sequence_column(self._sequence.name, of) for of in of_columns]
        return [
            Ids(key, of_values, lengths_B, count)
            for key, of_values, count in zip(keys, values, self._num_ids, strict=True)
        ]


def _batch(
    rows: Rows,
    reader: _SequenceReader,
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
