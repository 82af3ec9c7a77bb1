"""How long it was between events, as vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.nn.sequences import places
from recsys.types import History

NUM_GAPS = 128
_LOG_STEP = 0.301  # of HSTU's public code: a step multiplies a gap by 1.35


class GapEmbedding(nn.Module):
    """A vector per event for the seconds since the one before, and until the moment asked for.

    The second says what every request knows: how long after the last event a prediction is
    wanted. In training that is the time of the event to be predicted.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.Embedding(NUM_GAPS + 1, width)
        self.until = nn.Embedding(NUM_GAPS + 1, width)

    def forward(self, history: History) -> Tensor:
        """Give vectors (L, D)."""
        assert history.times_L is not None
        assert history.asked_at_L is not None
        _, place_L = places(history.lengths_B, num_tokens=history.times_L.shape[0])
        since_L = (history.times_L - history.times_L.roll(1)).masked_fill(place_L == 0, 0)
        until_L = history.asked_at_L - history.times_L
        return self.before(gap_steps(since_L)) + self.until(gap_steps(until_L))


def gap_steps(seconds: Tensor) -> Tensor:
    """Number of the step that a gap falls into, whatever its sign: 0 ... NUM_GAPS."""
    steps = seconds.abs().clamp(min=1).float().log() / _LOG_STEP
    return steps.to(torch.int64).clamp(max=NUM_GAPS)
