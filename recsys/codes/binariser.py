"""From vectors to bits, in several steps: each writes down what those before have left over.

N vectors · D width · T steps · M bits of a step.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Binariser(nn.Module):
    """Recurrent binarisation: b_t = sign(W_t x_t), x_{t+1} = x_t - R_t b_t.

    The value that a code stands for is sum_t 2^(T-1-t) b_t, M odd numbers within 1 - 2^T and
    2^T - 1; codes are compared by the dot product of these.

    Args:
        width: D.
        bits_per_step: M.
        num_steps: T.

    Source: Gan et al., Binary Embedding-based Retrieval at Tencent (2023),
    https://arxiv.org/abs/2302.08714. Differs from the paper: W and R are linear, since vectors
    that are scored by dot product need no more.
    """

    def __init__(self, *, width: int, bits_per_step: int, num_steps: int) -> None:
        super().__init__()
        self.width = width
        self.down = nn.ModuleList(nn.Linear(width, bits_per_step) for _ in range(num_steps))
        self.up = nn.ModuleList(nn.Linear(bits_per_step, width) for _ in range(num_steps - 1))

    def forward(self, vectors_ND: Tensor) -> Tensor:
        """Bits (N, T, M), 1 or -1, whose gradients are those of what the signs are of.

        Args:
            vectors_ND: Their lengths do not matter.
        """
        left_ND = F.normalize(vectors_ND, dim=1) * self.width**0.5
        bits = []
        for step, down in enumerate(self.down):
            bits_NM = _Sign.apply(down(left_ND))
            bits.append(bits_NM)
            if step < len(self.up):
                left_ND = left_ND - self.up[step](bits_NM)
        return torch.stack(bits, dim=1)


def levels(bits_NTM: Tensor) -> Tensor:
    """The values (N, M) that bits of 1 and -1 stand for."""
    num_steps = bits_NTM.shape[1]
    weights_T = 2.0 ** torch.arange(num_steps - 1, -1, -1, dtype=bits_NTM.dtype)
    return torch.einsum("ntm,t->nm", bits_NTM, weights_T)


class _Sign(torch.autograd.Function):
    """1 or -1; gradients pass where a value is within these."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return torch.where(values >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (values,) = cast(tuple[Tensor], ctx.saved_tensors)
        return grads[0] * (values.abs() <= 1)
