"""Rows to `Batch`: numpy columns become tensors without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features import columns
from features.columns import label_column
from features.schema import FeatureSchema
from features.spec import Sequence as SequenceFeature
from recsys.data.histories import Histories
from recsys.data.jagged import Ids, UnknownIdsError, keyed_jagged
from recsys.data.layout import dense_features
from recsys.data.rows import Ragged, Rows, integers, numbers
from recsys.data.sequence_reader import SequenceReader
from recsys.types import Batch


class Collate(Protocol):
    """Makes batches.

    Attributes:
        columns: What it reads of each row.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads of each row."""
        ...

    def __call__(self, rows: Rows) -> Batch:
        """One batch of all the rows."""
        ...


class RankingCollate:
    """Batches of examples with their features, histories and labels.

    Args:
        schema: What the rows are encoded with.
        histories: By sequence feature.
        with_labels: Whether rows have labels and weights; without, weights are 1.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        histories: Mapping[str, Histories],
        with_labels: bool = True,
    ) -> None:
        feature_set = schema.feature_set
        self._embedded = [(f.name, schema.num_ids(f.name)) for f in feature_set.embedded]
        self._dense = [f.name for f in dense_features(feature_set)]
        self._sequences = [
            SequenceReader(schema, s, histories=histories[s.name], max_length=s.max_length)
            for s in feature_set.of_kind(SequenceFeature)
        ]
        self._labels = [label_column(n) for n in feature_set.labels] if with_labels else []
        self._weight = [columns.WEIGHT] if with_labels else []
        self._user = [columns.USER] if feature_set.entity.user is not None else []

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads of each row."""
        names = [name for name, _ in self._embedded] + self._dense
        names += self._labels + self._weight + self._user
        read = [name for reader in self._sequences for name in reader.columns]
        return tuple(dict.fromkeys([*names, *read]))

    def __call__(self, rows: Rows) -> Batch:
        """One batch of all the rows."""
        none = torch.zeros(0, dtype=torch.int64)
        users_B = integers(rows[self._user[0]]) if self._user else np.full(len(rows), -1)
        weights_B = numbers(rows[self._weight[0]]) if self._weight else np.ones(len(rows))
        ids = [_column_ids(name, rows, num_ids=count) for name, count in self._embedded]
        sequences, histories_B = self._packed_histories(rows)
        return Batch(
            ids=keyed_jagged(ids, num_rows=len(rows)),
            sequences=sequences,
            dense_BN=_side_by_side(rows, self._dense),
            labels_BT=_side_by_side(rows, self._labels),
            weights_B=torch.from_numpy(weights_B.astype(np.float32)),
            users_B=torch.from_numpy(users_B),
            targets_B=none,
            seen_values=none,
            seen_lengths_B=none,
            histories_B=histories_B,
        )

    def _packed_histories(self, rows: Rows) -> tuple[KeyedJaggedTensor | None, Tensor | None]:
        """Distinct histories, and which is that of every row."""
        of_histories, histories_B = self._distinct_histories(rows)
        ids = [item for reader in self._sequences for item in reader.ids(of_histories)]
        padded = [item.followed_by_empty(len(rows) - len(of_histories)) for item in ids]
        try:
            return keyed_jagged(padded, num_rows=len(rows)), histories_B
        except UnknownIdsError as error:
            if histories_B is None:
                raise
            first = [int((histories_B == item.example).nonzero()[0]) for item in error.found]
            found = [replace(i, example=row) for i, row in zip(error.found, first, strict=True)]
            raise UnknownIdsError(found) from None

    def _distinct_histories(self, rows: Rows) -> tuple[Rows, Tensor | None]:
        """One row of each history, and which is that of every row; None: each has its own."""
        names = dict.fromkeys(name for reader in self._sequences for name in reader.columns)
        if not names:
            return rows, None
        first_G, histories_B = np.zeros(0, np.int64), np.zeros(len(rows), np.int64)
        for name in names:  # one number for all, which stays small
            column = integers(rows[name])
            low, high = column.min(initial=0), column.max(initial=0)
            pairs_B = histories_B * (high - low + 1) + column - low
            _, first_G, histories_B = np.unique(pairs_B, return_index=True, return_inverse=True)
        if len(first_G) == len(rows):
            return rows, None
        needed = Rows({name: rows[name] for name in names}, len(rows))
        return needed.take(first_G), torch.from_numpy(histories_B)


def _column_ids(name: str, rows: Rows, *, num_ids: int | None) -> Ids:
    column = rows[name]
    if isinstance(column, Ragged):
        return Ids(name, column.values, column.lengths, num_ids)
    return Ids(name, column, None, num_ids)


def _side_by_side(rows: Rows, names: Sequence[str]) -> Tensor:
    """Numbers of all columns, (B, width), vectors with their own width."""
    parts = [numbers(rows[name]).reshape(len(rows), -1) for name in names]
    width = sum(part.shape[1] for part in parts)
    numbers_BW = np.empty((len(rows), width), np.float32)
    begin = 0
    for part in parts:
        numbers_BW[:, begin : begin + part.shape[1]] = part
        begin += part.shape[1]
    return torch.from_numpy(numbers_BW)
