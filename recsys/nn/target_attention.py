"""How a target weighs the earlier events of its user.

B examples · L events of all, packed · K events of each · D width of what attention reads ·
H hidden width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from recsys.nn.events import Events, softmax
from recsys.nn.segments import Segment, label_linear, reads


class TargetAttention(nn.Module, ABC):
    """Scores events by a target, and turns scores into shares.

    Attributes:
        learns: Whether scores have a gradient; what age adds to them is learned, too.
    """

    learns: ClassVar[bool] = True

    @abstractmethod
    def forward(self, target_BD: Tensor, packed_LD: Tensor, events: Events) -> Tensor:
        """Give scores_BK, the higher the more an event matters.

        Args:
            target_BD: What attention reads of the target.
            packed_LD: What it reads of all events.
            events: Those to be scored.
        """

    def shares(self, scores_BK: Tensor, is_event_BK: Tensor) -> Tensor:
        """Weights of the events; 0 where there is none."""
        return softmax(scores_BK, is_event_BK)


class ScaledDot(TargetAttention):
    """Dot products, divided by the root of D.

    Source: Feng et al., DARE (2025), https://arxiv.org/abs/2410.02604, as its code has it.
    """

    def forward(self, target_BD: Tensor, packed_LD: Tensor, events: Events) -> Tensor:
        """Give scores_BK."""
        return events.dot(packed_LD, target_BD) / sqrt(target_BD.shape[1])


class ActivationUnit(TargetAttention):
    """A perceptron over the target, the event, their difference and product, divided by D.

    Args:
        width: D.
        hidden: Width of its hidden layer.

    Source: Zhou et al., DIN (2018), https://arxiv.org/abs/1706.06978, section 4.3, with the
    softmax and the sizes that DARE's code compares it with.
    """

    def __init__(self, width: int, *, hidden: int = 36) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(4 * width, hidden), nn.PReLU(), nn.Linear(hidden, 1))

    def label_inputs(self, segments: Sequence[Segment]) -> None:
        """Say what target and events are made of."""
        parts = ("@itself", "@event", "@difference", "@product")
        pairs = [Segment((*s.of, part), s.width) for part in parts for s in segments]
        label_linear(self.layers[0], reads=reads(pairs))

    def forward(self, target_BD: Tensor, packed_LD: Tensor, events: Events) -> Tensor:
        """Give scores_BK."""
        hidden, activation, output = self.layers
        assert isinstance(hidden, nn.Linear)
        itself_HD, event_HD, difference_HD, product_HD = hidden.weight.chunk(4, dim=1)
        # What each target makes of an event is linear in it: a matrix a target, times its events.
        of_target_BH = linear(target_BD, itself_HD + difference_HD, hidden.bias)
        of_events_BHD = event_HD - difference_HD + product_HD * target_BD.unsqueeze(1)
        hidden_BKH = torch.baddbmm(
            of_target_BH.unsqueeze(1), events.take(packed_LD), of_events_BHD.transpose(1, 2)
        )
        return output(activation(hidden_BKH)).squeeze(2) / self.width


class HashCollisions(TargetAttention):
    """The share of hashes by which an event falls into the target's bucket; no softmax.

    Args:
        width: D.
        num_hashes: Hashes of each vector.
        bits: Random directions whose signs make a hash.
        seed: Of the directions.

    Source: Cao et al., SDIM (2022), https://arxiv.org/abs/2205.10249, section 3.2.

    Differs from the paper: shares of all hashes add up to 1, where it normalises the sum of each.
    """

    learns: ClassVar[bool] = False

    def __init__(self, width: int, *, num_hashes: int = 48, bits: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.codes = SignCodes(width, num_bits=num_hashes * bits, seed=seed)
        self.bits = bits

    def forward(self, target_BD: Tensor, packed_LD: Tensor, events: Events) -> Tensor:
        """Give scores_BK: how many hashes agree."""
        equal_BKN = events.take(self.codes(packed_LD)) == self.codes(target_BD).unsqueeze(1)
        return equal_BKN.unflatten(2, (-1, self.bits)).all(3).sum(2).to(target_BD.dtype)

    def shares(self, scores_BK: Tensor, is_event_BK: Tensor) -> Tensor:
        """Collisions of an event over those of all."""
        counts_BK = scores_BK * is_event_BK
        return counts_BK / counts_BK.sum(1, keepdim=True).clamp(min=1)


class Uniform(TargetAttention):
    """All events weigh the same."""

    learns: ClassVar[bool] = False

    def forward(self, target_BD: Tensor, packed_LD: Tensor, events: Events) -> Tensor:
        """Give zeros (B, K)."""
        return target_BD.new_zeros(events.token_BK.shape)


class SignCodes(nn.Module):
    """Signs of a vector along random directions: vectors of small angle share most of them.

    Args:
        width: Of the vectors.
        num_bits: Number of directions.
        seed: Of the directions.

    Source: Charikar, SimHash (2002); Chen et al., ETA (2021), https://arxiv.org/abs/2108.04468.
    """

    directions_DN: Tensor

    def __init__(self, width: int, *, num_bits: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        directions_DN = torch.randn(width, num_bits, generator=generator)
        self.register_buffer("directions_DN", directions_DN, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Give bits (..., N)."""
        return vectors @ self.directions_DN > 0
