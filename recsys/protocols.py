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
    """

    objective: Literal["next", "cloze"]

    def __call__(self, items: Jagged) -> Tensor:
        """Give hidden_LD, one vector per token, packed as the input is."""
        ...

    def mask(self, items: Jagged, masked_L: Tensor) -> Jagged:
        """Put the mask vector where `masked_L` is true (cloze only)."""
        ...

    def score(self, hidden_MD: Tensor, items_KD: Tensor, item_ids_K: Tensor) -> Tensor:
        """Logits (M, K) of candidate items, given their table rows and ids."""
        ...
