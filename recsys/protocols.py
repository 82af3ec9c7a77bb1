"""What the trainer knows of models; they know nothing of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from recsys.types import Embedded, Jagged


class Ranker(nn.Module, ABC):
    """Scores examples. Built as `Model(layout, ...)` with a `FieldLayout`."""

    @abstractmethod
    def forward(self, embedded: Embedded) -> Tensor:
        """Give logits_BT."""


class SequenceEncoder(nn.Module, ABC):
    """Turns a sequence of item vectors into a vector per position.

    Built as `Model(layout, ...)` with a `FieldLayout`.

    Attributes:
        objective: `next`: position i predicts item i + 1, and no position sees a later one;
            `cloze`: masked items are predicted from both sides.
        item_bias_V: Added to the score of each item; None where there is none.
    """

    objective: ClassVar[Literal["next", "cloze"]]
    item_bias_V: Tensor | None

    @abstractmethod
    def forward(self, items: Jagged) -> Tensor:
        """Give hidden_LD, one vector per token, packed as the input is."""

    def mask(self, items: Jagged, masked_L: Tensor) -> Jagged:
        """Put the mask vector where `masked_L` is true; encoders with the cloze objective do."""
        raise NotImplementedError(f"{type(self).__name__} has no mask vector")

    def head(self, hidden_MD: Tensor) -> Tensor:
        """What is compared with item vectors, by dot product: the hidden vector itself, or more."""
        return hidden_MD
