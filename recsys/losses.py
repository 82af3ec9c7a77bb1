"""Losses of the two kinds of models.

B examples · T labels · M positions that predict · V items, the out-of-vocabulary id 0 included ·
D width.
"""

from __future__ import annotations

from typing import Any

import torch
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


def full_softmax(
    vectors_MD: Tensor,
    items_VD: Tensor,
    targets_M: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk: int = 256,
) -> Tensor:
    """Mean cross-entropy of each position's target among all items of the catalogue.

    A logit is the dot product of a position's and an item's vector, plus the item's bias.

    Args:
        vectors_MD: What each position predicts; for example `SequenceEncoder.head(hidden_MD)`.
        items_VD: The item table; row 0, out of vocabulary, is no candidate.
        targets_M: Item ids; positions whose target is 0 are left out.
        bias_V: Bias of each item.
        chunk: Positions whose logits are computed together.
    """
    bias_K = items_VD.new_zeros(len(items_VD) - 1) if bias_V is None else bias_V[1:]
    # Sums over the catalogue want full precision, also under autocast.
    with torch.autocast(vectors_MD.device.type, enabled=False):
        return _FullSoftmax.apply(
            _full_precision(vectors_MD),
            _full_precision(items_VD[1:]),
            _full_precision(bias_K),
            targets_M - 1,
            chunk,
        )


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


class _FullSoftmax(torch.autograd.Function):
    """The loss with its gradients, a chunk of positions at a time.

    The gradients of a chunk follow from its probabilities, so they are computed beside the loss:
    neither do the logits of all positions lie in memory together, nor are they computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors_MD: Tensor,
        items_KD: Tensor,
        bias_K: Tensor,
        targets_M: Tensor,
        chunk: int,
    ) -> Tensor:
        is_known_M = targets_M >= 0
        num_known = is_known_M.sum().clamp(min=1)
        total = vectors_MD.new_zeros(())
        grad_vectors_MD = torch.zeros_like(vectors_MD)
        grad_items_KD = torch.zeros_like(items_KD)
        grad_bias_K = torch.zeros_like(bias_K)
        for start in range(0, len(targets_M), chunk):
            part = slice(start, start + chunk)
            is_known_P1 = is_known_M[part].unsqueeze(1).to(vectors_MD.dtype)
            targets_P1 = targets_M[part].clamp(min=0).unsqueeze(1)
            logits_PK = torch.addmm(bias_K, vectors_MD[part], items_KD.T)
            target_P1 = logits_PK.gather(1, targets_P1)
            highest_P1 = logits_PK.amax(1, keepdim=True)
            logits_PK.sub_(highest_P1).exp_()
            normalizer_P1 = logits_PK.sum(1, keepdim=True)
            losses_P1 = normalizer_P1.log() + highest_P1 - target_P1
            total += (losses_P1 * is_known_P1).sum()
            # probability minus one at the target: the gradient of the logits
            grad_PK = logits_PK.mul_(is_known_P1 / normalizer_P1)
            grad_PK.scatter_add_(1, targets_P1, -is_known_P1)
            grad_vectors_MD[part] = grad_PK @ items_KD
            grad_items_KD.addmm_(grad_PK.T, vectors_MD[part])
            grad_bias_K += grad_PK.sum(0)
        ctx.save_for_backward(
            grad_vectors_MD / num_known, grad_items_KD / num_known, grad_bias_K / num_known
        )
        return total / num_known

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        return *(grad * saved for saved in ctx.saved_tensors), None, None
