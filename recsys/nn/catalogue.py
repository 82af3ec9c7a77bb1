"""Scores of every item for what a sequence encoder predicts."""

from __future__ import annotations

from torch import Tensor

from recsys.protocols import SequenceEncoder


def catalogue_scores(encoder: SequenceEncoder, hidden_BD: Tensor, items_VD: Tensor) -> Tensor:
    """Logits (B, V) of all items.

    Args:
        encoder: Has the head.
        hidden_BD: One hidden vector per example.
        items_VD: The item table, or the first numbers of its rows, which are compared with as many
            of the hidden vectors.
    """
    logits_BV = encoder.head(hidden_BD)[:, : items_VD.shape[1]] @ items_VD.T
    return logits_BV if encoder.item_bias_V is None else logits_BV + encoder.item_bias_V
