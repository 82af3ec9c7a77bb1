"""DIN: an activation unit weighs all earlier events by the target."""

from __future__ import annotations

from models.history_ranker import HistoryRanker
from recsys.types import FieldLayout


class DIN(HistoryRanker):
    """A small perceptron scores each event beside the target; there is no search and no age.

    Args:
        layout: Widths of the inputs and names of the labels.
        mlp: Widths of the head's layers.
        batch_norm: Whether the head normalises its input over the batch.

    Source: Zhou et al., DIN (2018), https://arxiv.org/abs/1706.06978.

    Differs from the paper: scores pass a softmax, and the head is that of `HistoryRanker`, as in
    the comparison of Feng et al., DARE (2025).
    """

    def __init__(
        self,
        layout: FieldLayout,
        *,
        mlp: tuple[int, ...] = (200, 80),
        batch_norm: bool = True,
    ) -> None:
        super().__init__(
            layout,
            attention="activation_unit",
            search="none",
            target_aware=False,
            auxiliary=False,
            ages=False,
            mlp=mlp,
            batch_norm=batch_norm,
        )
