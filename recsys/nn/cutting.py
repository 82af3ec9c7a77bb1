"""Batches cut down: to some examples, or to some events of their histories.

B examples · P of them · L events of all histories, packed · K events kept of each history.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.columns import count_column
from recsys.nn.event_ids import EventIds
from recsys.nn.events import Events
from recsys.nn.tokens import Tokens
from recsys.types import Batch


@dataclass(frozen=True)
class KeptEvents:
    """Events of a batch's histories, oldest first.

    Attributes:
        token_L: Which packed events of the batch.
        age_L: How many events ago each was.
        lengths_B: How many each example keeps.
    """

    token_L: Tensor
    age_L: Tensor
    lengths_B: Tensor

    @classmethod
    def of(cls, found: Events) -> Self:
        """In the order of time, from any."""
        assert found.age_BK is not None, "search knows the ages of what it keeps"
        last = torch.iinfo(found.token_BK.dtype).max
        order_BK = found.token_BK.masked_fill(~found.is_event_BK, last).argsort(dim=1)
        is_event_BK = found.is_event_BK.gather(1, order_BK)
        token_L = found.token_BK.gather(1, order_BK)[is_event_BK]
        return cls(token_L, found.age_BK.gather(1, order_BK)[is_event_BK], is_event_BK.sum(1))

    @classmethod
    def joined(cls, parts: Sequence[Self], *, first_events: Sequence[int]) -> Self:
        """Those of all parts of a batch.

        Args:
            parts: Each with its own packed events.
            first_events: Which event of the batch is the first of each part.
        """
        tokens = [part.token_L + first for part, first in zip(parts, first_events, strict=True)]
        ages, lengths = [part.age_L for part in parts], [part.lengths_B for part in parts]
        return cls(torch.cat(tokens), torch.cat(ages), torch.cat(lengths))

    def take(self, index_P: Tensor) -> KeptEvents:
        """Those of some examples, in the order of the index."""
        tokens = EventIds(self.token_L, self.lengths_B).take(index_P)
        ages = EventIds(self.age_L, self.lengths_B).take(index_P)
        return KeptEvents(tokens.values, ages.values, self.lengths_B[index_P])


def to_examples(batch: Batch, index_P: Tensor) -> Batch:
    """Some examples of a ranker's batch, in the order of the index.

    Histories that they share keep their order.
    """
    assert not len(batch.seen_lengths_B), "a ranker's batch"
    of_histories_P, histories_P = index_P, batch.histories_B
    if histories_P is not None:
        of_histories_P, histories_P = histories_P[index_P].unique(return_inverse=True)
    return replace(
        batch,
        ids=_taken(batch.ids, index_P),
        sequences=_taken(batch.sequences, of_histories_P, num_examples=len(index_P)),
        dense_BN=batch.dense_BN[index_P],
        labels_BT=batch.labels_BT[index_P],
        weights_B=batch.weights_B[index_P],
        users_B=batch.users_B[index_P],
        histories_B=histories_P,
    )


def to_own_histories(batch: Batch) -> Batch:
    """A batch in which every example has a history of its own, a copy if need be."""
    if batch.histories_B is None:
        return batch
    return replace(batch, sequences=_taken(batch.sequences, batch.histories_B), histories_B=None)


def to_kept_events(batch: Batch, kept: KeptEvents, *, columns: Collection[str]) -> Batch:
    """A batch whose histories have the kept events only.

    Every example has its own; times of these histories are left out, which no ranker reads.

    Args:
        batch: With whole histories.
        kept: Their events.
        columns: Keys of the history's columns, all of one sequence.
    """
    assert batch.sequences is not None, "a batch with histories"
    tokens = Tokens.of(batch.sequences, keys=list(columns), time_key=None)
    cut: dict[str, EventIds] = {}
    for key, column in tokens.ids.items():
        of_kept = column.take(kept.token_L)
        cut[key] = EventIds(of_kept.values, of_kept.lengths_B(kept.lengths_B))
        if of_kept.counts_L is not None:
            cut[count_column(key)] = EventIds(of_kept.counts_L, kept.lengths_B)
    sequence = f"{next(iter(columns)).partition('.')[0]}."
    others = {k: x for k, x in _by_key(batch.sequences).items() if not k.startswith(sequence)}
    if batch.histories_B is not None:
        others = {key: ids.take(batch.histories_B) for key, ids in others.items()}
    return replace(batch, sequences=_keyed(cut | others), histories_B=None)


def num_events(batch: Batch, column: str) -> Tensor:
    """Events of each history.

    Args:
        batch: With histories.
        column: Key of one of their columns.
    """
    assert batch.sequences is not None, "a batch with histories"
    by_key = _by_key(batch.sequences)
    of_events = by_key.get(count_column(column), by_key[column])
    assert of_events.counts_L is not None
    return of_events.counts_L


def _taken(
    keyed: KeyedJaggedTensor | None, index_P: Tensor, *, num_examples: int | None = None
) -> KeyedJaggedTensor | None:
    """Some entries, followed by empty ones up to a number of examples."""
    if keyed is None:
        return None
    taken = {key: ids.take(index_P) for key, ids in _by_key(keyed).items()}
    num_empty = 0 if num_examples is None else num_examples - len(index_P)
    return _keyed({key: _followed_by_empty(ids, num_empty) for key, ids in taken.items()})


def _followed_by_empty(ids: EventIds, num_entries: int) -> EventIds:
    assert ids.counts_L is not None, "ids of examples"
    return EventIds(ids.values, F.pad(ids.counts_L, (0, num_entries)))


def _by_key(keyed: KeyedJaggedTensor) -> dict[str, EventIds]:
    """Ids, and how many each example has, by key."""
    values = keyed.values().split(keyed.length_per_key())
    lengths_KB = keyed.lengths().view(len(keyed.keys()), -1)
    return dict(zip(keyed.keys(), map(EventIds, values, lengths_KB), strict=True))


def _keyed(by_key: Mapping[str, EventIds]) -> KeyedJaggedTensor:
    lengths = [ids.counts_L for ids in by_key.values() if ids.counts_L is not None]
    return KeyedJaggedTensor(
        keys=list(by_key),
        values=torch.cat([ids.values for ids in by_key.values()]),
        lengths=torch.cat(lengths),
    )
