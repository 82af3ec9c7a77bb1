"""Looks at the ids of every batch before a table is read, and names the feature of a wrong one.

fbgemm reads row 0 for an id beyond its table, without an error; torch and TorchRec end with a
message of their kernels. Only on a CPU: elsewhere looking would wait for the device at every step,
so batches are looked at before they are copied there.

K keys of a KeyedJaggedTensor · B examples · L ids of all keys, packed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.columns import count_column
from features.errors import DataError, SchemaMismatchError
from recsys.tables.scheme import Scheme
from recsys.types import Batch

_WHOLE = (torch.int64, torch.int32)
_ENDLESS = 1 << 63
_MEND = "mend the code that makes the batch"


@dataclass(frozen=True)
class ReadColumn:
    """What is known of a column of ids of a batch.

    Attributes:
        num_ids: Ids are 0 ... num_ids - 1; None: any 63-bit number.
        table: Logical table that is read.
        num_rows: Of the largest physical table of it; 0 where it has none.
        has_lists: Whether an event may have other than one id, so that counts go with the ids.
    """

    num_ids: int | None
    table: str
    num_rows: int
    has_lists: bool = False


class BatchChecks:
    """Checks batches for the tables of one model.

    Args:
        columns: By key in a batch; what is not among them is read by no table.
    """

    def __init__(self, columns: Mapping[str, ReadColumn]) -> None:
        self._columns = dict(columns)
        self._limits: dict[tuple[str, ...], NDArray[np.uint64]] = {}

    @classmethod
    def of(cls, schemes: Iterable[Scheme]) -> Self:
        """For what the readers of all tables read."""
        return cls(
            {
                reader.column: ReadColumn(
                    num_ids=reader.num_ids,
                    table=scheme.table.name,
                    num_rows=max((table.num_rows for table in scheme.physical_tables), default=0),
                    has_lists=reader.event_pooling != "none",
                )
                for scheme in schemes
                for reader in scheme.table.readers
            }
        )

    def check(self, batch: Batch) -> None:
        """Check all that a model looks up for a batch.

        Raises:
            DataError: it is no batch: lengths, counts or types do not fit.
            SchemaMismatchError: an id is not among those of its table.
        """
        if batch.weights_B.device.type != "cpu":
            return
        for name in ("ids", "sequences"):
            keyed = getattr(batch, name)
            if keyed is not None:
                self.check_keyed(keyed, num_examples=len(batch), where=f"batch.{name}")
        if batch.histories_B is not None:
            _check_histories(batch.histories_B, num_examples=len(batch))

    def check_keyed(self, keyed: KeyedJaggedTensor, *, num_examples: int, where: str) -> None:
        """Check some ids.

        Args:
            keyed: By key.
            num_examples: B.
            where: Their name, for messages.

        Raises:
            DataError: lengths, counts or types do not fit.
            SchemaMismatchError: an id is not among those of its table.
        """
        if keyed.values().device.type != "cpu":
            return
        keys = tuple(keyed.keys())
        values, lengths_KB = _arrays(keyed, num_examples=num_examples, where=where)
        counts_K = lengths_KB.sum(1)
        if len(keys) and (
            lengths_KB.min(initial=0) < 0
            or int(counts_K.sum()) != len(values)
            or (keyed.length_per_key_or_none() or counts_K.tolist()) != counts_K.tolist()
        ):
            raise DataError(_malformed(keyed, lengths_KB, where=where))
        self._check_lists(keys, values, lengths_KB)
        starts_K = counts_K.cumsum() - counts_K
        has_ids_K = counts_K > 0
        if not has_ids_K.any():
            return
        # As unsigned numbers, negative ones are beyond every limit.
        highest = np.maximum.reduceat(values.view(np.uint64), starts_K[has_ids_K])
        if (highest >= self._limits_of(keys)[has_ids_K]).any():
            found = values, lengths_KB
            raise SchemaMismatchError(
                mistake for key in keys if (mistake := self._unknown(keys, key, *found)) is not None
            )

    def _limits_of(self, keys: tuple[str, ...]) -> NDArray[np.uint64]:
        """The number of ids of each key; for times and counts there is no limit."""
        if keys not in self._limits:
            limits = []
            for key in keys:
                column = self._columns.get(key)
                limits.append(1 << 64 if column is None else column.num_ids or _ENDLESS)
            self._limits[keys] = np.array([min(n, (1 << 64) - 1) for n in limits], np.uint64)
        return self._limits[keys]

    def _unknown(
        self,
        keys: Sequence[str],
        key: str,
        values: NDArray[np.int64],
        lengths_KB: NDArray[np.int64],
    ) -> str | None:
        column, place = self._columns.get(key), keys.index(key)
        if column is None:
            return None
        start = int(lengths_KB[:place].sum())
        ids = values[start : start + int(lengths_KB[place].sum())]
        wrong = np.flatnonzero((ids < 0) | (ids >= (column.num_ids or _ENDLESS)))
        if not len(wrong):
            return None
        example = int(np.searchsorted(lengths_KB[place].cumsum(), wrong[0], side="right"))
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        allowed = "0 and above" if column.num_ids is None else f"0 ... {column.num_ids - 1}"
        rows = f" of {column.num_rows} rows" if column.num_rows else ""
        return (
            f"features.{key}: id that its table does not have, got {ids[wrong[0]]} in example "
            f"{example} of the batch{more}; allowed {allowed}, those of tables.{column.table}"
            f"{rows}; encode the data with the schema of the model"
        )

    def _check_lists(
        self, keys: tuple[str, ...], values: NDArray[np.int64], lengths_KB: NDArray[np.int64]
    ) -> None:
        """Counts of ids per event fit the ids."""
        mistakes = []
        for key in keys:
            column = self._columns.get(key)
            if column is None or not column.has_lists:
                continue
            counts = count_column(key)
            if counts not in keys:
                mistakes.append(
                    f"features.{key}: its events have lists of ids, got no {counts!r} in the "
                    f"batch; add the number of ids of each event"
                )
                continue
            place = keys.index(counts)
            start = int(lengths_KB[:place].sum())
            of_events = values[start : start + int(lengths_KB[place].sum())]
            before = np.concatenate([[0], of_events.cumsum()])
            ends_B = lengths_KB[place].cumsum()
            totals_B = before[ends_B] - before[ends_B - lengths_KB[place]]
            wrong = np.flatnonzero(totals_B != lengths_KB[keys.index(key)])
            if len(wrong) or of_events.min(initial=0) < 0:
                example = int(wrong[0]) if len(wrong) else 0
                mistakes.append(
                    f"features.{key}: the ids of its events do not add up, got "
                    f"{totals_B[example]} counted and {lengths_KB[keys.index(key)][example]} ids "
                    f"in example {example} of the batch; allowed as many, none below 0; {_MEND}"
                )
        if mistakes:
            raise DataError(mistakes)


def _arrays(
    keyed: KeyedJaggedTensor, *, num_examples: int, where: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids, and their number by key and example."""
    mistakes, num_keys = [], len(keyed.keys())
    values, lengths = keyed.values(), keyed.lengths()
    for name, tensor in (("ids", values), ("lengths", lengths)):
        if tensor.dtype not in _WHOLE:
            nulls = int(tensor.isnan().sum()) if tensor.is_floating_point() else 0
            missing = f" with {nulls} missing" if nulls else ""
            mistakes.append(
                f"{where}: {name} are no whole numbers, got {tensor.dtype}{missing}; allowed "
                f"torch.int64; give what is missing the id 0"
            )
    if lengths.numel() != num_keys * num_examples:
        mistakes.append(
            f"{where}: lengths are not one for each example of each key, got {lengths.numel()} for "
            f"{num_keys} keys and {num_examples} examples; allowed {num_keys * num_examples}; "
            f"{_MEND}"
        )
    if mistakes:
        raise DataError(mistakes)
    shape = (num_keys, num_examples)
    # No copy where they are int64, as those of the loader are.
    ids, counts = (x.contiguous().numpy().astype(np.int64, copy=False) for x in (values, lengths))
    return ids, counts.reshape(shape)


def _malformed(
    keyed: KeyedJaggedTensor, lengths_KB: NDArray[np.int64], *, where: str
) -> Iterator[str]:
    """What is wrong with lengths."""
    for key, lengths_B in zip(keyed.keys(), lengths_KB, strict=True):
        wrong = np.flatnonzero(lengths_B < 0)
        if len(wrong):
            yield (
                f"features.{key}: negative number of ids, got {lengths_B[wrong[0]]} in example "
                f"{wrong[0]} of the batch; allowed 0 and more; {_MEND}"
            )
    counts_K, num_values = lengths_KB.sum(1), keyed.values().numel()
    if int(counts_K.sum()) != num_values:
        yield (
            f"{where}: lengths, or offsets, do not end at the number of ids, got "
            f"{int(counts_K.sum())}; allowed {num_values}; {_MEND}"
        )
    told = keyed.length_per_key_or_none()
    for key, count, said in zip(keyed.keys(), counts_K, told or counts_K, strict=True):
        if count != said:
            yield (
                f"features.{key}: length_per_key is not the sum of its lengths, got {said}; "
                f"allowed {count}; {_MEND}"
            )


def _check_histories(histories_B: Tensor, *, num_examples: int) -> None:
    wrong = histories_B[(histories_B < 0) | (histories_B >= num_examples)]
    if len(histories_B) != num_examples or len(wrong):
        got = f"{int(wrong[0])}" if len(wrong) else f"{len(histories_B)} entries"
        raise DataError(
            f"batch.histories_B: is not a history of the batch for each example, got {got}; "
            f"allowed 0 ... {num_examples - 1} for each of {num_examples} examples; {_MEND}"
        )
