"""Loss of the ranking models.

B examples · T labels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
