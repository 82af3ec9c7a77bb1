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

    Logits are kept in base 2, log2(e) times what they are in base e: the probabilities are the
    same, and torch.exp2 takes half the time of torch.exp on a CPU.
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
        scaled_MD, scaled_bias_K = vectors_MD * _LOG2_E, bias_K * _LOG2_E
        for start in range(0, len(targets_M), chunk):
            part = slice(start, start + chunk)
            is_known_P1 = is_known_M[part].unsqueeze(1).to(vectors_MD.dtype)
            targets_P1 = targets_M[part].clamp(min=0).unsqueeze(1)
            logits_PK = torch.addmm(scaled_bias_K, scaled_MD[part], items_KD.T)
            target_P1 = logits_PK.gather(1, targets_P1)
            highest_P1 = logits_PK.amax(1, keepdim=True)
            logits_PK.sub_(highest_P1).exp2_()
            normalizer_P1 = logits_PK.sum(1, keepdim=True)
            losses_P1 = (normalizer_P1.log2() + (highest_P1 - target_P1)) / _LOG2_E
            total += (losses_P1 * is_known_P1).sum()
            # probability minus one at the target: the gradient of the logits in base e
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
