"""Editing packed histories before they are looked up: their last tokens, and one more at the end.

B histories · L tokens of all of them, packed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.columns import count_column
from recsys.nn.event_ids import EventIds, fill_in
from recsys.protocols import Objective
from recsys.types import History, Jagged


@dataclass(frozen=True)
class Tokens:
    """The ids of histories: several columns, aligned event by event.

    Attributes:
        ids: Of every event, by key of the column; the items' column comes first.
        lengths_B: Events of each history.
        times_L: Second of every event; None where the feature file gives no times.
        asked_at_B: Second for which the item after each history is asked.
    """

    ids: Mapping[str, EventIds]
    lengths_B: Tensor
    times_L: Tensor | None = None
    asked_at_B: Tensor | None = None

    @classmethod
    def of(cls, sequences: KeyedJaggedTensor, *, keys: Sequence[str], time_key: str | None) -> Self:
        """Take them from a batch.

        Args:
            sequences: Of a `Batch`.
            keys: Columns to take, the items' first; those of lists come with their `count_column`.
            time_key: Column of times, which has one more entry at the end of every history.
        """
        values = dict(
            zip(sequences.keys(), sequences.values().split(sequences.length_per_key()), strict=True)
        )
        lengths = dict(
            zip(sequences.keys(), sequences.lengths().view(len(sequences.keys()), -1), strict=True)
        )
        lengths_B = lengths[keys[0]]
        ids = {key: EventIds(values[key], values.get(count_column(key))) for key in keys}
        if time_key is None:
            return cls(ids, lengths_B)
        is_asked = is_last(lengths[time_key])
        times = values[time_key]
        return cls(ids, lengths_B, times_L=times[~is_asked], asked_at_B=times[is_asked])

    @property
    def items_L(self) -> Tensor:
        """Item ids."""
        return next(iter(self.ids.values())).values

    def asked_at_L(self) -> Tensor | None:
        """Second of the event after each token."""
        if self.times_L is None or self.asked_at_B is None:
            return None
        asked_at_L = self.times_L.roll(-1)
        asked_at_L[is_last(self.lengths_B)] = self.asked_at_B[self.lengths_B > 0]
        return asked_at_L

    def most_recent(self, most: int) -> Self:
        """The last events of each history, `most` of them where there are more."""
        ends_L = self.lengths_B.cumsum(0).repeat_interleave(
            self.lengths_B, output_size=len(self.items_L)
        )
        from_end_L = ends_L - torch.arange(len(ends_L), device=ends_L.device)
        return self._where(from_end_L <= most, self.lengths_B.clamp(max=most), self.asked_at_B)

    def without_last(self) -> Self:
        """All but the last event of each history, which is then what is asked for."""
        is_last_L, asked_at_B = is_last(self.lengths_B), self.asked_at_B
        if self.times_L is not None and asked_at_B is not None:
            asked_at_B = asked_at_B.masked_scatter(self.lengths_B > 0, self.times_L[is_last_L])
        return self._where(~is_last_L, (self.lengths_B - 1).clamp(min=0), asked_at_B)

    def with_unknown(self, where_B: Tensor) -> Self:
        """Some histories with an unknown event at the end, at the time that is asked for.

        Args:
            where_B: Which histories.
        """
        longer_B = self.lengths_B + where_B.to(self.lengths_B.dtype)
        is_new_L = is_last(longer_B)
        is_new_L[is_new_L.clone()] = where_B[longer_B > 0]
        times_L = self.times_L
        if times_L is not None and self.asked_at_B is not None:
            times_L = fill_in(times_L, is_new_L, self.asked_at_B[where_B])
        ids = {key: column.with_unknown(is_new_L) for key, column in self.ids.items()}
        return type(self)(ids, longer_B, times_L, self.asked_at_B)

    def with_ties_shuffled(self, random_L: Tensor) -> Self:
        """The events of one second of a history in another order; those of others stay.

        Args:
            random_L: Numbers from 0 to 1, by which the events of a second are ordered.
        """
        assert self.times_L is not None, "times say which events are ties"
        is_new_L = is_first(self.lengths_B) | (self.times_L != self.times_L.roll(1))
        order_L = (is_new_L.cumsum(0).double() + random_L).argsort()
        ids = {key: column.take(order_L) for key, column in self.ids.items()}
        return type(self)(ids, self.lengths_B, self.times_L, self.asked_at_B)

    def as_question(self, objective: Objective, *, max_length: int) -> Self:
        """The form in which an encoder is asked for what comes next.

        Args:
            objective: `cloze`: an unknown event is added at the end, to be masked; `next`: only
                to a history that is empty, which still asks a question.
            max_length: Tokens that the encoder has positions for.
        """
        if objective == "next":
            return self.most_recent(max_length).with_unknown(self.lengths_B == 0)
        everywhere_B = torch.ones_like(self.lengths_B, dtype=torch.bool)
        return self.most_recent(max_length - 1).with_unknown(everywhere_B)

    def keyed(self, candidates: Mapping[str, Tensor] | None = None) -> KeyedJaggedTensor:
        """What is looked up; for columns of lists also the counts, by `count_column`.

        Args:
            candidates: Further ids by key, which make one more example at the end. Together in
                one lookup, a sharded table is updated once for what it gave to both.
        """
        candidates = candidates or {}
        packed: dict[str, tuple[Tensor, Tensor]] = {}
        for key, column in self.ids.items():
            packed[key] = (column.values, column.lengths_B(self.lengths_B))
            if column.counts_L is not None:
                packed[count_column(key)] = (column.counts_L, self.lengths_B)
        none = self.items_L[:0]
        keys = list(dict.fromkeys([*packed, *candidates]))
        values, lengths = [], []
        for key in keys:
            own, of_histories = packed.get(key, (none, torch.zeros_like(self.lengths_B)))
            more = candidates.get(key, none)
            values += [own, more]
            lengths += [of_histories, self.lengths_B.new_tensor([len(more)])]
        return KeyedJaggedTensor(keys=keys, values=torch.cat(values), lengths=torch.cat(lengths))

    def history(self, vectors: Mapping[str, Jagged]) -> History:
        """What the encoder reads.

        Args:
            vectors: Of the events, looked up for `keyed`, by key; those of candidates are left out.
        """
        num_tokens = len(self.items_L)
        item, *sides = self.ids
        return History(
            items_LD=vectors[item].values_LD[:num_tokens],
            lengths_B=self.lengths_B,
            sides={key: vectors[key].values_LD[:num_tokens] for key in sides},
            times_L=self.times_L,
            asked_at_L=self.asked_at_L(),
        )

    def _where(self, kept_L: Tensor, lengths_B: Tensor, asked_at_B: Tensor | None) -> Self:
        index_L = kept_L.nonzero().squeeze(1)
        times_L = None if self.times_L is None else self.times_L[index_L]
        ids = {key: column.take(index_L) for key, column in self.ids.items()}
        return type(self)(ids, lengths_B, times_L, asked_at_B)


def is_last(lengths_B: Tensor) -> Tensor:
    """Which packed tokens (L) are the last of their sequence."""
    is_last_L = torch.zeros(int(lengths_B.sum()), dtype=torch.bool, device=lengths_B.device)
    is_last_L[(lengths_B.cumsum(0) - 1)[lengths_B > 0]] = True
    return is_last_L


def is_first(lengths_B: Tensor) -> Tensor:
    """Which packed tokens (L) are the first of their sequence."""
    is_first_L = torch.zeros(int(lengths_B.sum()), dtype=torch.bool, device=lengths_B.device)
    is_first_L[(lengths_B.cumsum(0) - lengths_B)[lengths_B > 0]] = True
    return is_first_L


def count_within(wanted_L: Tensor, lengths_B: Tensor) -> Tensor:
    """Wanted tokens of each sequence.

    Args:
        wanted_L: Which are.
        lengths_B: Tokens of each.
    """
    owner_L = torch.arange(len(lengths_B), device=wanted_L.device).repeat_interleave(
        lengths_B, output_size=len(wanted_L)
    )
    return torch.bincount(owner_L[wanted_L], minlength=len(lengths_B))
