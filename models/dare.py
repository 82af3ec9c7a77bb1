"""DARE: one embedding finds the events that matter, another says what they mean."""

from __future__ import annotations

from models.history_ranker import HistoryRanker
from recsys.types import FieldLayout


class DARE(HistoryRanker):
    """Top-K search and softmax over scaled dot products, and a target-aware representation.

    It is meant for `scheme: decoupled` tables; on others it is TWIN.

    Args:
        layout: Widths of the inputs and names of the labels.
        top_k: Events that search keeps.
        age_width: Width of the vectors of ages; null for that of the sequence's first column.
        auxiliary: Whether a second head, over the whole history, helps in training.
        mlp: Widths of the head's layers.
        batch_norm: Whether the head normalises its input over the batch.

    Source: Feng et al., DARE (2025), https://arxiv.org/abs/2410.02604.
    """

    def __init__(
        self,
        layout: FieldLayout,
        *,
        top_k: int = 20,
        age_width: int | None = None,
        auxiliary: bool = True,
        mlp: tuple[int, ...] = (200, 80),
        batch_norm: bool = True,
    ) -> None:
        super().__init__(
            layout,
            top_k=top_k,
            age_width=age_width,
            auxiliary=auxiliary,
            mlp=mlp,
            batch_norm=batch_norm,
        )
