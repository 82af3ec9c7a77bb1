"""Which earlier events a target looks at: the first of two stages.

B examples · L events of all histories, packed · W events of each · K events kept of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from recsys.nn.events import Events
from recsys.nn.target_attention import SignCodes


class EventSearch(nn.Module, ABC):
    """Ranks events; those that rank highest are kept."""

    @abstractmethod
    def forward(
        self, scores_BW: Tensor, target_BD: Tensor, packed_LD: Tensor, events: Events
    ) -> Tensor:
        """Give ranks_BW, the higher the better; -inf for what may not be kept.

        Args:
            scores_BW: What attention gives the events.
            target_BD: What attention reads of the target.
            packed_LD: What it reads of all events.
            events: Those to be ranked, the most recent first.
        """


class HighestScores(EventSearch):
    """Attention itself ranks, as TWIN and DARE search."""

    def forward(
        self, scores_BW: Tensor, target_BD: Tensor, packed_LD: Tensor, events: Events
    ) -> Tensor:
        """Give the scores."""
        return scores_BW


class SameValue(EventSearch):
    """The most recent events that agree with the target in one column, as SIM's hard search.

    Args:
        columns: Where the column lies in what attention reads. Ids that share a row agree.

    Source: Pi et al., SIM (2020), https://arxiv.org/abs/2006.05639, section 3.2.
    """

    def __init__(self, columns: slice) -> None:
        super().__init__()
        self.columns = columns

    def forward(
        self, scores_BW: Tensor, target_BD: Tensor, packed_LD: Tensor, events: Events
    ) -> Tensor:
        """Rank by recency."""
        of_events = events.take(packed_LD[:, self.columns])
        agrees_BW = (of_events == target_BD[:, self.columns].unsqueeze(1)).all(2)
        return _recency(scores_BW).masked_fill(~agrees_BW, -torch.inf)


class NearestCodes(EventSearch):
    """The events whose sign codes differ least from the target's, as ETA searches.

    Args:
        width: Of what attention reads.
        num_bits: Length of a code.
        seed: Of the code.

    Source: Chen et al., ETA (2021), https://arxiv.org/abs/2108.04468, section 3.2.
    """

    def __init__(self, width: int, *, num_bits: int, seed: int = 0) -> None:
        super().__init__()
        self.codes = SignCodes(width, num_bits=num_bits, seed=seed)

    def forward(
        self, scores_BW: Tensor, target_BD: Tensor, packed_LD: Tensor, events: Events
    ) -> Tensor:
        """Rank by equal bits, and by recency where as many are equal."""
        equal_BWN = events.take(self.codes(packed_LD)) == self.codes(target_BD).unsqueeze(1)
        return equal_BWN.sum(2) * scores_BW.shape[1] + _recency(scores_BW)


def _recency(scores_BW: Tensor) -> Tensor:
    """0 for the most recent event, -1 for the one before; exact for 2^24 events."""
    places_W = torch.arange(scores_BW.shape[1], device=scores_BW.device, dtype=torch.float32)
    return -places_W.expand_as(scores_BW)
