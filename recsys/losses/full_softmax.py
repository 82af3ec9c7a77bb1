"""Cross-entropy over the whole catalogue.

M positions that predict · V items, the out-of-vocabulary id 0 included · K = V - 1 candidates ·
D width · P positions of a chunk.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recsys.protocols import SequenceLoss

_LOG2_E = math.log2(math.e)


class FullSoftmax(SequenceLoss):
    """Cross-entropy of the target among all items: no sampling, and the most work per position.

    Source: Klenitskiy and Vasilev (2023), https://arxiv.org/abs/2309.07602, section 3.3.
    """

    def __call__(
        self,
        vectors_MD: Tensor,
        items_VD: Tensor,
        targets_M: Tensor,
        *,
        bias_V: Tensor | None = None,
    ) -> Tensor:
        """Give the mean over positions; the arguments are those of `full_softmax`."""
        return full_softmax(vectors_MD, items_VD, targets_M, bias_V=bias_V)


def full_softmax(
    vectors_MD: Tensor,
    items_VD: Tensor,
    targets_M: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk: int = 128,
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
    # Sums over the catalogue want full precision, also under autocast.
    with torch.autocast(vectors_MD.device.type, enabled=False):
        return _FullSoftmax.apply(
            _full_precision(vectors_MD),
            _full_precision(items_VD[1:]),
            None if bias_V is None else _full_precision(bias_V[1:]),
            targets_M - 1,
            chunk,
        )


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


class _FullSoftmax(torch.autograd.Function):
    """The loss with its gradients, a chunk of positions at a time.

    The gradients of a chunk follow from its probabilities, so they are computed beside the loss:
    neither do the logits of all positions lie in memory together, nor are they computed twice.

    Every pass over a chunk's logits counts. So they are kept in base 2, log2(e) times what they
    are in base e: the probabilities are the same, and torch.exp2 takes half the time of torch.exp
    on a CPU. Their normalizers divide the gradients instead of the probabilities, and the targets'
    part of the gradients is added in the end.
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors_MD: Tensor,
        items_KD: Tensor,
        bias_K: Tensor | None,
        targets_M: Tensor,
        chunk: int,
    ) -> Tensor:
        weight_M = (targets_M >= 0).to(vectors_MD.dtype)
        weight_M /= weight_M.sum().clamp(min=1)
        target_M = targets_M.clamp(min=0)
        scaled_MD = vectors_MD * _LOG2_E
        scaled_bias_K = None if bias_K is None else bias_K * _LOG2_E
        log_normalizers_M = torch.empty_like(weight_M)
        grad_vectors_MD = torch.empty_like(vectors_MD)
        grad_items_KD = torch.zeros_like(items_KD)
        grad_bias_K = None if bias_K is None else torch.zeros_like(bias_K)
        for start in range(0, len(target_M), chunk):
            part = slice(start, start + chunk)
            if scaled_bias_K is None:
                logits_PK = scaled_MD[part] @ items_KD.T
            else:
                logits_PK = torch.addmm(scaled_bias_K, scaled_MD[part], items_KD.T)
            highest_P1 = logits_PK.amax(1, keepdim=True)
            powers_PK = logits_PK.sub_(highest_P1).exp2_()
            normalizer_P1 = powers_PK.sum(1, keepdim=True)
            log_normalizers_M[part] = (normalizer_P1.log2() + highest_P1).squeeze(1) / _LOG2_E
            scale_P1 = weight_M[part].unsqueeze(1) / normalizer_P1
            grad_vectors_MD[part] = (powers_PK @ items_KD) * scale_P1
            grad_items_KD.addmm_(powers_PK.T, vectors_MD[part] * scale_P1)
            if grad_bias_K is not None:
                grad_bias_K.addmv_(powers_PK.T, scale_P1.squeeze(1))
        target_items_MD = items_KD[target_M]
        logits_M = (vectors_MD * target_items_MD).sum(1)
        grad_vectors_MD.addcmul_(target_items_MD, weight_M.unsqueeze(1), value=-1)
        grad_items_KD.index_add_(0, target_M, vectors_MD * weight_M.unsqueeze(1), alpha=-1)
        if bias_K is not None and grad_bias_K is not None:
            logits_M += bias_K[target_M]
            grad_bias_K.index_add_(0, target_M, weight_M, alpha=-1)
        ctx.save_for_backward(grad_vectors_MD, grad_items_KD, grad_bias_K)
        return ((log_normalizers_M - logits_M) * weight_M).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        grads = (None if saved is None else grad * saved for saved in ctx.saved_tensors)
        return *grads, None, None
