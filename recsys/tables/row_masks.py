"""Rows that are read as zeros where they are shorter than a threshold, which is trained.

L ids · D embedding width · F features · S sampled rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.tables.blocks import Block
from recsys.tables.scheme import Part

_QUANTILE = 0.99
_SAMPLED_ROWS = 1024


class _Step(torch.autograd.Function):
    """1 where a number is above 0, else 0; the derivative is an estimate that never is one.

    It is 2 - 4|z| up to |z| = 0.4, then 0.4 up to 1, then 0.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        """Give the step."""
        ctx.save_for_backward(z)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        """Give the estimate."""
        [z] = ctx.saved_tensors
        [gradient] = gradients
        size = z.abs()
        near = 2 - 4 * size
        slope = torch.where(size <= 0.4, near, torch.where(size <= 1, 0.4, 0.0))
        return gradient * slope


def row_mask(rows_LD: Tensor, threshold: Tensor) -> Tensor:
    """Ones (L, 1) for rows whose absolute numbers add up to more than a threshold, else zeros.

    Differentiable in both, by the long-tailed estimate.

    Source: Lyu et al., OptEmbed (2022), https://arxiv.org/abs/2208.04482, section 3.2.
    """
    step = _Step.apply(row_norms(rows_LD)[:, None] - threshold)
    assert isinstance(step, Tensor)
    return step


def row_norms(rows_VD: Tensor) -> Tensor:
    """Sums of the absolute numbers of rows."""
    return rows_VD.abs().sum(1)


class Thresholds:
    """Moves thresholds after each step, by plain gradient descent.

    They stay below the 0.99 quantile of the norms of their feature's rows, so that some rows are
    always kept: those of up to 1024 ids, evenly spaced, are looked at.

    Args:
        thresholds_F: What is moved.
        parts: Of the one physical table.
        blocks: Rows of each feature, in the order of the thresholds.
        lr: Learning rate.
    """

    def __init__(
        self,
        thresholds_F: nn.Parameter,
        parts: Sequence[Part],
        *,
        blocks: Mapping[str, Block],
        lr: float,
    ) -> None:
        self.thresholds_F = thresholds_F
        self.parts = parts
        self.names = tuple(blocks)
        self.lr = lr
        spaced = [_evenly_spaced(block) for block in blocks.values()]
        self.sizes = [len(rows) for rows in spaced]
        self.rows_S = torch.cat(spaced).to(thresholds_F.device)
        self.norms_S = self._norms()

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Move them by their gradients, and clear these."""
        gradient_F = self.thresholds_F.grad
        if gradient_F is None:
            return
        self.thresholds_F -= self.lr * gradient_F
        self.thresholds_F.grad = None
        self.norms_S = self._norms()
        limits = [norms.quantile(_QUANTILE) for norms in self.norms_S.split(self.sizes)]
        self.thresholds_F.clamp_(max=torch.stack(limits))

    @torch.no_grad()
    def kept_shares(self) -> dict[str, Tensor]:
        """Share of the looked-at rows that are above the threshold, by feature."""
        thresholds = self.thresholds_F.repeat_interleave(
            torch.tensor(self.sizes, device=self.rows_S.device)
        )
        is_kept = (self.norms_S > thresholds).double().split(self.sizes)
        return {n: kept.mean() for n, kept in zip(self.names, is_kept, strict=True)}

    def _norms(self) -> Tensor:
        """Norms of the looked-at rows, from the parts of all ranks."""
        norms_S = torch.zeros(len(self.rows_S), device=self.rows_S.device)
        copies_S = torch.zeros_like(norms_S)
        for part in self.parts:
            num_rows, width = part.values.shape
            here_S = self.rows_S - part.first_row
            is_here_S = (here_S >= 0) & (here_S < num_rows)
            norms_S[is_here_S] += row_norms(part.values[here_S[is_here_S]])
            copies_S[is_here_S] += width / part.table.dim
        if dist.is_initialized():  # a replicated table has a copy on every rank
            totals_2S = torch.stack([norms_S, copies_S])
            dist.all_reduce(totals_2S)
            norms_S, copies_S = totals_2S.unbind()
        return norms_S / copies_S


def _evenly_spaced(block: Block) -> Tensor:
    count = min(block.size, _SAMPLED_ROWS)
    return block.first + torch.linspace(0, block.size - 1, count).long()
