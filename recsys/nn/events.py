"""Packed events of histories as a rectangle, the most recent first, for search and attention.

B examples · G histories that they have or share · L events of all histories, packed · W places per
history · K events kept of each · A ages, of which 0 is the target's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import fbgemm_gpu  # noqa: F401  registers `jagged_dense_bmm`
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Events:
    """Some events of each history: which packed event is where.

    Attributes:
        token_BK: Packed event; where there is none, any.
        is_event_BK: Whether there is one.
        age_BK: 1 for the event before the target, 2 for the one before that. None: place + 1.
        lengths_B: Of each history, where these are all events.
        shared: Which examples share a history, where these are all events and some do.
    """

    token_BK: Tensor
    is_event_BK: Tensor
    age_BK: Tensor | None = None
    lengths_B: Tensor | None = None
    shared: SharedHistories | None = None

    @classmethod
    def all_of(
        cls,
        lengths_B: Tensor,
        *,
        max_length: int,
        age_L: Tensor | None = None,
        histories_B: Tensor | None = None,
    ) -> Self:
        """All events.

        Args:
            lengths_B: Events of each history, oldest first.
            max_length: Of the longest that there may be; an exported program has so many places.
            age_L: Of each event. None: no event is missing between it and the target.
            histories_B: Which history is that of each example. None: each has its own.
        """
        if histories_B is not None:  # the others are nobody's
            lengths_B = lengths_B[: len(histories_B.bincount())]
        longest = max_length if _is_exporting() else int(lengths_B.max()) if len(lengths_B) else 0
        place_W = torch.arange(max(longest, 1), device=lengths_B.device)
        is_event_BW = place_W < lengths_B.unsqueeze(1)
        last_B1 = lengths_B.cumsum(0).unsqueeze(1) - 1
        token_BW = (last_B1 - place_W) * is_event_BW
        shared = None
        if histories_B is not None:
            shared = SharedHistories.of(histories_B, token_BW)
            token_BW = token_BW.index_select(0, histories_B)
            is_event_BW = is_event_BW.index_select(0, histories_B)
        age_BW = None if age_L is None else _taken(age_L, token_BW)
        return cls(token_BW, is_event_BW, age_BW, lengths_B, shared)

    def take(self, packed_LD: Tensor) -> Tensor:
        """What belongs to the events, (B, K, D).

        Args:
            packed_LD: Of all events.
        """
        return _taken(packed_LD, self.token_BK)

    def dot(self, packed_LD: Tensor, vectors_BD: Tensor) -> Tensor:
        """Dot products of events with a vector of each example, (B, K).

        Args:
            packed_LD: Of all events.
            vectors_BD: Of the examples.
        """
        if self.shared is not None:
            return self.shared.dot(_taken(packed_LD, self.shared.token_GW), vectors_BD)
        is_packed = self.lengths_B is not None and packed_LD.device.type == "cpu"
        if not is_packed or packed_LD.dtype != torch.float32 or _is_exporting():
            return (vectors_BD.unsqueeze(1) @ self.take(packed_LD).transpose(1, 2)).squeeze(1)
        # A fourth of the time of the above: nothing is gathered but the products.
        assert self.lengths_B is not None
        offsets = F.pad(self.lengths_B.cumsum(0), (1, 0))
        products_L1, _ = torch.ops.fbgemm.jagged_dense_bmm(
            packed_LD, offsets, vectors_BD.unsqueeze(2), self.token_BK.shape[1]
        )
        return _taken(products_L1.squeeze(1), self.token_BK)

    def pool(self, shares_BK: Tensor, packed_LD: Tensor) -> Tensor:
        """What belongs to the events, summed with shares, (B, D).

        Args:
            shares_BK: Of the events; 0 where there is none.
            packed_LD: Of all events.
        """
        if self.shared is not None:
            return self.shared.pool(shares_BK, _taken(packed_LD, self.shared.token_GW))
        return (shares_BK.unsqueeze(1) @ self.take(packed_LD)).squeeze(1)

    def best(self, scores_BW: Tensor, *, k: int) -> tuple[Events, Tensor]:
        """The K events of highest score, best first; and their places (B, K) among these.

        Args:
            scores_BW: Of these events; -inf for those that may not be kept.
            k: Events to keep, at most.
        """
        scores_BW = scores_BW.masked_fill(~self.is_event_BK, -torch.inf)
        found_BK = scores_BW.topk(min(k, scores_BW.shape[1]), dim=1)
        place_BK, is_event_BK = found_BK.indices, found_BK.values != -torch.inf  # NaN is an event
        age_BK = place_BK + 1 if self.age_BK is None else self.age_BK.gather(1, place_BK)
        return Events(self.token_BK.gather(1, place_BK), is_event_BK, age_BK), place_BK

    def of_ages(self, numbers_A: Tensor) -> Tensor:
        """The number that belongs to the age of each event, (B, K) or (1, K).

        Args:
            numbers_A: By age.
        """
        if self.age_BK is None:
            return numbers_A[1 : self.token_BK.shape[1] + 1].unsqueeze(0)
        return numbers_A.index_select(0, self.age_BK.flatten()).view_as(self.age_BK)

    def pool_ages(self, shares_BK: Tensor, ages_AD: Tensor) -> Tensor:
        """The vectors of the events' ages, summed with shares, (B, D).

        Args:
            shares_BK: Of the events; 0 where there is none.
            ages_AD: By age.
        """
        if self.age_BK is None:
            return shares_BK @ ages_AD[1 : shares_BK.shape[1] + 1]
        shares_BA = shares_BK.new_zeros(shares_BK.shape[0], len(ages_AD))
        return shares_BA.scatter_add(1, self.age_BK, shares_BK) @ ages_AD


@dataclass(frozen=True)
class SharedHistories:
    """Examples grouped by the history that they share: G groups of C places.

    Attributes:
        token_GW: Packed event of each place of a history.
        num_places: C, examples of the largest group.
        place_B: Place of each example among G * C.
    """

    token_GW: Tensor
    num_places: int
    place_B: Tensor

    @classmethod
    def of(cls, histories_B: Tensor, token_GW: Tensor) -> Self:
        """Group examples.

        Args:
            histories_B: Which history is that of each example.
            token_GW: Packed event of each place of a history.
        """
        order_B = histories_B.argsort(stable=True)
        counts_G = histories_B.bincount()
        starts_G = counts_G.cumsum(0) - counts_G
        num_places = int(counts_G.max()) if len(counts_G) else 1
        ranks_B = torch.empty_like(order_B)
        ranks_B[order_B] = torch.arange(len(order_B), device=order_B.device)
        place_B = histories_B * num_places + ranks_B - starts_G[histories_B]
        return cls(token_GW, num_places, place_B)

    def dot(self, keys_GWD: Tensor, vectors_BD: Tensor) -> Tensor:
        """Dot products (B, W) of each example's vector with what belongs to its events."""
        products_GCW = self._grouped(vectors_BD) @ keys_GWD.transpose(1, 2)
        return products_GCW.flatten(0, 1).index_select(0, self.place_B)

    def pool(self, shares_BW: Tensor, values_GWD: Tensor) -> Tensor:
        """Sums (B, D) of what belongs to events, with the shares that each example gives them."""
        sums_GCD = self._grouped(shares_BW) @ values_GWD
        return sums_GCD.flatten(0, 1).index_select(0, self.place_B)

    def _grouped(self, rows_BX: Tensor) -> Tensor:
        """Rows of examples by group; 0 in places of nobody."""
        num_groups = len(self.token_GW)
        rows = rows_BX.new_zeros(num_groups * self.num_places, rows_BX.shape[1])
        rows = rows.index_copy(0, self.place_B, rows_BX)
        return rows.view(num_groups, self.num_places, rows_BX.shape[1])


def softmax(scores_BK: Tensor, is_event_BK: Tensor) -> Tensor:
    """Shares of the events that add up to 1; all 0 where there is no event."""
    lowest = torch.finfo(scores_BK.dtype).min
    shares_BK = scores_BK.masked_fill(~is_event_BK, lowest).softmax(dim=1)
    return shares_BK * is_event_BK


def _is_exporting() -> bool:
    """Whether shapes must not depend on data, and operators must be torch's own."""
    return torch.compiler.is_exporting()


def _taken(packed: Tensor, token_BK: Tensor) -> Tensor:
    """Rows of packed events, by `index_select`, whose gradient is the faster one."""
    if not _is_exporting() and len(packed) == 0:
        # Beside it, so that the tables stay part of the graph: other ranks wait for gradients.
        packed = torch.cat([packed, packed.new_zeros(1, *packed.shape[1:])])
    return packed.index_select(0, token_BK.flatten()).view(*token_BK.shape, *packed.shape[1:])
