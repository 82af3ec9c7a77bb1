"""Packed ids, times and counts of several keys as one `KeyedJaggedTensor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import DataError, SchemaMismatchError
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


@dataclass(frozen=True)
class UnknownId:
    """An id of a batch that the schema does not know.

    Attributes:
        key: Its key in the batch.
        example: Its place in the batch.
        value: The id.
        num_more: How many more there are of this key.
        num_ids: Ids are 0 ... num_ids - 1. None: any number from 0.
    """

    key: str
    example: int
    value: int
    num_more: int
    num_ids: int | None

    def message(self, *, origin: str = "", remedy: str = "encode the data with this schema") -> str:
        """What is wrong, for a person.

        Args:
            origin: Where the id was read.
            remedy: What to do.
        """
        value = f"{self.value} in {origin}" if origin else f"{self.value}"
        more = f", and {self.num_more} more in this batch" if self.num_more else ""
        limit = "0 and above" if self.num_ids is None else f"0 ... {self.num_ids - 1}"
        return (
            f"features.{self.key}: id that the schema does not know, got {value}{more}; "
            f"allowed {limit}; {remedy}"
        )


class UnknownIdsError(SchemaMismatchError):
    """A batch has ids that the schema does not know.

    Args:
        found: One or more.
        batch: Number of the batch in its epoch, where known.
    """

    def __init__(self, found: Sequence[UnknownId], *, batch: int | None = None) -> None:
        super().__init__(item.message() for item in found)
        self.found, self.batch = tuple(found), batch

    def __reduce__(self) -> Any:
        """Travels between processes with what it found."""
        return partial(UnknownIdsError, batch=self.batch), (self.found,)


def keyed_jagged(ids: Sequence[Ids], *, num_rows: int) -> KeyedJaggedTensor | None:
    """Pack ids by key; None where there is no key.

    Raises:
        DataError: what should be ids are no whole numbers.
        UnknownIdsError: ids that the schema does not know.
    """
    if not ids:
        return None
    check_ids([item for item in ids if item.are_ids])
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


def check_ids(ids: Sequence[Ids]) -> None:
    """Refuse ids beyond the table, for which fbgemm would silently read row 0.

    Raises:
        DataError: what should be ids are no whole numbers.
        UnknownIdsError: ids that the schema does not know.
    """
    mistakes = [
        f"features.{item.key}: ids are no whole numbers, got {item.values.dtype}; allowed int64; "
        f"encode the data anew"
        for item in ids
        if item.values.dtype.kind not in "iu"
    ]
    if mistakes:
        raise DataError(mistakes)
    found = [_first_unknown(item) for item in ids if _is_beyond(item)]
    if found:
        raise UnknownIdsError(found)


def _is_beyond(item: Ids) -> bool:
    if not len(item.values):
        return False
    # As unsigned numbers, negative ones are beyond every limit: one pass finds both mistakes.
    values = item.values
    highest = int(values.view(f"u{values.itemsize}").max())
    num_values = 1 << 8 * values.itemsize - int(values.dtype.kind == "i")  # from 0
    return highest >= min(num_values, num_values if item.num_ids is None else item.num_ids)


def _first_unknown(item: Ids) -> UnknownId:
    values = item.values.astype(np.int64)
    is_wrong = values < 0
    if item.num_ids is not None:
        is_wrong |= values >= item.num_ids
    wrong = np.flatnonzero(is_wrong)
    first = int(wrong[0])
    if item.lengths_B is not None:
        example = int(np.searchsorted(item.lengths_B.cumsum(), first, side="right"))
    else:
        example = first
    return UnknownId(item.key, example, int(values[first]), len(wrong) - 1, item.num_ids)
