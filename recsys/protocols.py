"""What the trainer knows of models and losses; they know nothing of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from recsys.types import Embedded, History

Objective = Literal["next", "cloze"]


class Ranker(nn.Module, ABC):
    """Scores examples. Built as `Model(layout, ...)` with a `FieldLayout`.

    Attributes:
        reads_histories: Whether it reads sequences event by event.
        multiplies_fields: Whether vectors of different fields meet without a layer between them;
            then only a field of zeros leaves what the ranker computes as it is.
    """

    reads_histories: ClassVar[bool] = False
    multiplies_fields: ClassVar[bool] = False

    @abstractmethod
    def forward(self, embedded: Embedded) -> Tensor:
        """Give logits_BT."""

    def training_logits(self, embedded: Embedded) -> tuple[Tensor, ...]:
        """Give logits_BT, and those of heads that only help in training."""
        return (self(embedded),)


class SequenceLoss(ABC):  # noqa: B024  the two kinds are called with different things
    """Compares what positions predict with items; which ones, `recsys.losses` says."""


class SequenceEncoder(nn.Module, ABC):
    """Turns a history into vectors that predict items.

    Built as `Model(layout, ...)` with a `FieldLayout`.

    Attributes:
        objective: `next`: position i predicts item i + 1, and no position sees a later one;
            `cloze`: masked items are predicted from both sides.
        item_bias_V: Added to the score of each item; None where there is none.
        loss: What it is trained with where the run file does not say.
    """

    objective: Objective
    item_bias_V: Tensor | None
    loss: SequenceLoss

    @abstractmethod
    def forward(self, history: History, wanted_M: Tensor | None = None) -> Tensor:
        """Give hidden_MD, one vector per wanted token.

        Args:
            history: What is read.
            wanted_M: Packed tokens, in rising order, at least one: the masked ones of a cloze, or
                the last of each history. None: all.
        """

    def mask(self, history: History, masked_L: Tensor) -> History:
        """Hide the items where `masked_L` is true; encoders with the cloze objective do."""
        raise NotImplementedError(f"{type(self).__name__} has no mask vector")

    def head(self, hidden_MD: Tensor) -> Tensor:
        """What is compared with item vectors, by dot product: the hidden vector itself, or more."""
        return hidden_MD
