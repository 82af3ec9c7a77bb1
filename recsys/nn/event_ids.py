"""One column of packed histories: an id per event, or a list of ids.

B histories · L events of all of them, packed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

UNKNOWN = 0
"""Id of an event of which nothing is known."""


@dataclass(frozen=True)
class EventIds:
    """The ids of events.

    Attributes:
        values: All ids, event after event.
        counts_L: Ids of each event. None: one each.
    """

    values: Tensor
    counts_L: Tensor | None = None

    def take(self, index_L: Tensor) -> Self:
        """The events at these places, in this order."""
        if self.counts_L is None:
            return replace(self, values=self.values[index_L])
        counts_L = self.counts_L[index_L]
        starts_L = (self.counts_L.cumsum(0) - self.counts_L)[index_L]
        shifts = (starts_L - counts_L.cumsum(0) + counts_L).repeat_interleave(counts_L)
        places = shifts + torch.arange(len(shifts), device=shifts.device)
        return type(self)(self.values[places], counts_L)

    def with_unknown(self, is_new_L: Tensor) -> Self:
        """With unknown events among them: of id `UNKNOWN`, or of none where there are lists.

        Args:
            is_new_L: Which events of the result are the unknown ones.
        """
        if self.counts_L is None:
            return replace(self, values=fill_in(self.values, is_new_L, UNKNOWN))
        return replace(self, counts_L=fill_in(self.counts_L, is_new_L, 0))

    def lengths_B(self, num_events_B: Tensor) -> Tensor:
        """Ids of each history.

        Args:
            num_events_B: Events of each history.
        """
        if self.counts_L is None:
            return num_events_B
        before = F.pad(self.counts_L.cumsum(0), (1, 0))
        return before[F.pad(num_events_B.cumsum(0), (1, 0))].diff()


def fill_in(values_L: Tensor, is_new_L: Tensor, new: Tensor | int) -> Tensor:
    """Values with new ones among them.

    Args:
        values_L: The old ones.
        is_new_L: Which places of the result take a new one.
        new: One for all these places, or one for each.
    """
    filled_L = torch.empty_like(is_new_L, dtype=values_L.dtype)
    filled_L[~is_new_L], filled_L[is_new_L] = values_L, new
    return filled_L
