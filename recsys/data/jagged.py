"""Packed ids, times and counts of several keys as one `KeyedJaggedTensor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import SchemaMismatchError
from recsys.data.rows import Array


@dataclass(frozen=True)
class Ids:
    """Ids of one key of a batch.

    Attributes:
        key: Its name in the batch.
        values: All ids, example after example.
        lengths_B: Ids per example. None: one each.
        num_ids: Ids are 0 ... num_ids - 1. None: any number from 0.
        are_ids: False: they are seconds or counts, which nothing looks up.
    """

    key: str
    values: Array
    lengths_B: NDArray[np.int64] | None
    num_ids: int | None
    are_ids: bool = True

    def followed_by_empty(self, num_rows: int) -> Ids:
        """With more examples at the end, that have no ids."""
        if num_rows == 0:
            return self
        assert self.lengths_B is not None, "an example may have no ids"
        return replace(self, lengths_B=np.pad(self.lengths_B, (0, num_rows)))


def keyed_jagged(ids: Sequence[Ids], *, num_rows: int) -> KeyedJaggedTensor | None:
    """Pack ids by key; None where there is no key.

    Raises:
        SchemaMismatchError: ids that the schema does not know.
    """
    if not ids:
        return None
    _check_range([item for item in ids if item.are_ids])
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
