"""Rows to `Batch`: numpy columns become tensors without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features import columns
from features.columns import label_column, sequence_column
from features.errors import SchemaMismatchError
from features.schema import FeatureSchema
from features.spec import Sequence as SequenceFeature
from recsys.data.histories import Histories
from recsys.data.layout import dense_features, position_column
from recsys.data.rows import Array, Ragged, Rows
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


@dataclass(frozen=True)
class Ids:
    """Ids of one key of a batch.

    Attributes:
        key: Its name in the batch.
        values: All ids, example after example.
        lengths_B: Ids per example. None: one each.
        num_ids: Ids are 0 ... num_ids - 1. None: any number from 0.
    """

    key: str
    values: Array
    lengths_B: NDArray[np.int64] | None
    num_ids: int | None


def keyed_jagged(ids: Sequence[Ids], *, num_rows: int) -> KeyedJaggedTensor | None:
    """Pack ids by key; None where there is no key.

    Raises:
        SchemaMismatchError: ids that the schema does not know.
    """
    if not ids:
        return None
    _check_range(ids)
    counts = [len(item.values) for item in ids]
    offsets = [0, *np.cumsum(counts).tolist()]
    values = np.empty(offsets[-1], np.int64)
    lengths_KB = np.ones((len(ids), num_rows), np.int64)
    for position, item in enumerate(ids):
        values[offsets[position] : offsets[position + 1]] = item.values
        if item.lengths_B is not None:
            lengths_KB[position] = item.lengths_B
    return KeyedJaggedTensor(
        keys=[item.key for item in ids],
        values=torch.from_numpy(values),
        lengths=torch.from_numpy(lengths_KB.reshape(-1)),
        stride=num_rows,
        length_per_key=counts,  # given, for computing them later would wait for the device
        offset_per_key=offsets,
    )


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
        self._sequences = feature_set.of_kind(SequenceFeature)
        self._num_ids = {of: schema.num_ids(of) for s in self._sequences for of in s.columns}
        self._histories = dict(histories)
        self._labels = [label_column(n) for n in feature_set.labels] if with_labels else []
        self._weight = [columns.WEIGHT] if with_labels else []
        self._user = [columns.USER] if feature_set.entity.user is not None else []

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads of each row."""
        names = [name for name, _ in self._embedded] + self._dense
        names += self._labels + self._weight + self._user
        return tuple(dict.fromkeys([*names, *map(position_column, self._sequences)]))

    def __call__(self, rows: Rows) -> Batch:
        """One batch of all the rows."""
        none = torch.zeros(0, dtype=torch.int64)
        users_B = integers(rows[self._user[0]]) if self._user else np.full(len(rows), -1)
        weights_B = numbers(rows[self._weight[0]]) if self._weight else np.ones(len(rows))
        ids = [_column_ids(name, rows, num_ids=count) for name, count in self._embedded]
        return Batch(
            ids=keyed_jagged(ids, num_rows=len(rows)),
            sequences=keyed_jagged(self._sequence_ids(rows, users_B), num_rows=len(rows)),
            dense_BN=_side_by_side(rows, self._dense),
            labels_BT=_side_by_side(rows, self._labels),
            weights_B=torch.from_numpy(weights_B.astype(np.float32)),
            users_B=torch.from_numpy(users_B),
            targets_B=none,
            seen_values=none,
            seen_lengths_B=none,
        )

    def _sequence_ids(self, rows: Rows, users_B: NDArray[np.int64]) -> list[Ids]:
        ids = []
        for s in self._sequences:
            ends_B = integers(rows[position_column(s)])
            values, lengths_B = self._histories[s.name].slice(
                users_B, ends_B, features=s.columns, max_length=s.max_length
            )
            ids += [
                Ids(sequence_column(s.name, of), of_values, lengths_B, self._num_ids[of])
                for of, of_values in zip(s.columns, values, strict=True)
            ]
        return ids


def integers(column: Array | Ragged) -> NDArray[np.int64]:
    """A column with one integer per row."""
    assert isinstance(column, np.ndarray), "one number per row"
    return column.astype(np.int64)


def numbers(column: Array | Ragged) -> NDArray[np.float32]:
    """A column with one number, or several, per row."""
    assert isinstance(column, np.ndarray), "numbers, no lists"
    return column.astype(np.float32)


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


def _check_range(ids: Sequence[Ids]) -> None:
    """Refuse ids beyond the table, for which fbgemm would silently read row 0."""
    mistakes = []
    for item in ids:
        if not len(item.values):
            continue
        highest, lowest = int(item.values.max()), int(item.values.min())
        if lowest < 0 or (item.num_ids is not None and highest >= item.num_ids):
            wrong = lowest if lowest < 0 else highest
            limit = "0 and above" if item.num_ids is None else f"0 ... {item.num_ids - 1}"
            mistakes.append(
                f"features.{item.key}: id that the schema does not know, got {wrong}; "
                f"allowed {limit}; encode the data with this schema"
            )
    if mistakes:
        raise SchemaMismatchError(mistakes)
