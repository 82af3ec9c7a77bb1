"""What the trainer knows of models; they know nothing of it."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from recsys.types import Embedded, Jagged


class Ranker(Protocol):
    """Scores examples. Built as `Model(layout, ...)` with a `FieldLayout`; an nn.Module."""

    def __call__(self, embedded: Embedded) -> Tensor:
        """Give logits_BT."""
        ...


class SequenceEncoder(Protocol):
    """Turns a sequence of item vectors into a vector per position; an nn.Module.

    Built as `Model(layout, ...)` with a `FieldLayout`.

    Attributes:
        objective: `next`: position i predicts item i + 1, and no position sees a later one;
            `cloze`: masked items are predicted from both sides.
        item_bias_V: Added to the score of each item; None where there is none.
    """

    objective: Literal["next", "cloze"]
    item_bias_V: Tensor | None

    def __call__(self, items: Jagged) -> Tensor:
        """Give hidden_LD, one vector per token, packed as the input is."""
        ...

    def mask(self, items: Jagged, masked_L: Tensor) -> Jagged:
        """Put the mask vector where `masked_L` is true (cloze only)."""
        ...

    def head(self, hidden_MD: Tensor) -> Tensor:
        """What is compared with item vectors, by dot product."""
        ...
