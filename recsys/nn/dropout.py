"""Dropout that does not wait for its random numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 256


class Dropout(nn.Module):
    """Sets a share of the numbers to zero in training and scales up the others.

    On a CPU torch draws a uniform number for each, which took a quarter of a transformer's step;
    here each costs one byte of random bits, a fifth of the time. The share is rounded to 1/256
    there, and what is kept is scaled by the rounded share, so that the mean stays right.

    Args:
        share: Of the numbers.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, numbers: Tensor) -> Tensor:
        """Give the numbers that are left."""
        if not self.training or self.share == 0.0:
            return numbers
        if numbers.device.type != "cpu":
            return F.dropout(numbers, self.share)
        return numbers * _kept(numbers, num_dropped=min(round(self.share * _LEVELS), _LEVELS - 1))

    def extra_repr(self) -> str:
        """The share."""
        return str(self.share)


def _kept(numbers: Tensor, *, num_dropped: int) -> Tensor:
    """0 for what is dropped, else the scale; of the shape of the numbers."""
    words = torch.empty(-(-numbers.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    levels = words.view(torch.int8)[: numbers.numel()].view(numbers.shape)
    # In place, on floats: a boolean mask costs several times as much to make and to apply.
    kept = levels.to(numbers.dtype).ge_(num_dropped - _LEVELS // 2)
    return kept.mul_(_LEVELS / (_LEVELS - num_dropped))
