"""Losses of the two kinds of models.

B examples · T labels · M positions that predict · V items, the out-of-vocabulary id 0 included ·
D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden_MD, items_KD, item_ids_K) -> logits_MK, as `SequenceEncoder.score`."""


def binary_cross_entropy(logits_BT: Tensor, labels_BT: Tensor, weights_B: Tensor) -> Tensor:
    """Weighted mean over examples of the mean over labels of the binary cross-entropy.

    Args:
        logits_BT: Scores before the sigmoid.
        labels_BT: 0 or 1; NaN where an example has no such label, which is left out.
        weights_B: Weight of each example; the sum is divided by B, not by their sum.
    """
    is_present_BT = ~labels_BT.isnan()
    each_BT = F.binary_cross_entropy_with_logits(
        logits_BT, labels_BT.nan_to_num(), weight=is_present_BT, reduction="none"
    )
    each_B = each_BT.sum(dim=1) / is_present_BT.sum(dim=1).clamp(min=1)
    return (each_B * weights_B).sum() / max(len(weights_B), 1)


def full_softmax(
    hidden_MD: Tensor,
    items_VD: Tensor,
    targets_M: Tensor,
    score: Score,
    *,
    chunk: int = 256,
) -> Tensor:
    """Mean cross-entropy of each position's target among all items of the catalogue.

    Logits are computed for a few positions at a time, and once more in the backward pass, so
    those of all positions never lie in memory together.

    Args:
        hidden_MD: What each position predicts.
        items_VD: The item table; row 0, out of vocabulary, is no candidate.
        targets_M: Item ids; positions whose target is 0 are left out.
        score: The encoder's `score`.
        chunk: Positions whose logits are computed together.
    """
    candidates_KD = items_VD[1:]
    candidate_ids_K = torch.arange(1, len(items_VD), device=items_VD.device)

    def summed(part_MD: Tensor, part_targets_M: Tensor) -> Tensor:
        logits_MK = score(part_MD, candidates_KD, candidate_ids_K)
        return F.cross_entropy(logits_MK, part_targets_M - 1, ignore_index=-1, reduction="sum")

    parts = list(zip(hidden_MD.split(chunk), targets_M.split(chunk), strict=True))
    if len(parts) == 1:  # nothing to save, so nothing is computed twice
        total = summed(hidden_MD, targets_M)
    else:
        sums = [checkpoint(summed, *part, use_reentrant=False) for part in parts]
        total = torch.stack(sums).sum()
    return total / (targets_M > 0).sum().clamp(min=1)
