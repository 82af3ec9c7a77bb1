"""Logits of a few candidates per position, where runs of positions share a set of candidates.

A set may be shared by the positions of a sequence, by all positions (one set), or by none (a set
for each).

M positions that predict, packed run after run · S sets, one per run · K candidates of a set ·
D width · V item ids · N runs of a bucket of similar length · W positions of the longest of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsys.nn.sequences import NUM_BUCKETS, LengthBuckets

# A rectangle of so many logits stays in a CPU's cache: forward and backward, for 13,400 positions
# with 3000 candidates each, took 0.76 s in 8 rectangles, and 0.6 s in 32.
_LOGITS_OF_A_BUCKET = 2**20
_ID_BITS = 40


def sampled_logits(
    vectors_MD: Tensor,
    items_TD: Tensor,
    *,
    targets_M: Tensor,
    ids_SK: Tensor,
    sizes_S: Tensor,
    bias_V: Tensor | None = None,
    log_expected_SK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits of the targets (M), and of the candidates (M, K); -inf where one is the target.

    Args:
        vectors_MD: What each position predicts.
        items_TD: Item vectors of the targets, then those of the candidates, set after set.
        targets_M: Item ids.
        ids_SK: Item ids of the candidates.
        sizes_S: Positions of each run; they add up to M.
        bias_V: Bias of each item.
        log_expected_SK: Subtracted from the logits of the candidates.
    """
    targets_MD, candidates_TD = items_TD.split([len(targets_M), ids_SK.numel()])
    positives_M = positive_logits(vectors_MD, targets_MD)
    bias_SK = None if bias_V is None else bias_V[ids_SK]
    if bias_V is not None:
        positives_M = positives_M + bias_V[targets_M]
    if log_expected_SK is not None:
        bias_SK = -log_expected_SK if bias_SK is None else bias_SK - log_expected_SK
    candidates_SKD = candidates_TD.unflatten(0, ids_SK.shape)
    logits_MK = candidate_logits(vectors_MD, candidates_SKD, sizes_S, bias_SK=bias_SK)
    return positives_M, hide_hits(logits_MK, targets_M, ids_SK=ids_SK, sizes_S=sizes_S)


def positive_logits(vectors_MD: Tensor, targets_MD: Tensor) -> Tensor:
    """Logit (M) of the target of each position: the dot product of its vector with the item's."""
    return (_full_precision(vectors_MD) * _full_precision(targets_MD)).sum(1)


def candidate_logits(
    vectors_MD: Tensor,
    candidates_SKD: Tensor,
    sizes_S: Tensor,
    *,
    bias_SK: Tensor | None = None,
) -> Tensor:
    """Logits (M, K) of each position with the candidates of its run.

    Args:
        vectors_MD: What each position predicts.
        candidates_SKD: Item vectors of each set.
        sizes_S: Positions of each run; they add up to M.
        bias_SK: Added to the logits of each set.
    """
    num_sets, num_candidates, width = candidates_SKD.shape
    if bias_SK is None:
        bias_SK = candidates_SKD.new_zeros(num_sets, num_candidates)
    vectors_MD, candidates_SKD = _full_precision(vectors_MD), _full_precision(candidates_SKD)
    bias_SK = _full_precision(bias_SK)
    run = len(vectors_MD) // max(num_sets, 1)
    # Softmaxes and sigmoids over the logits want full precision, also under autocast.
    with torch.autocast(vectors_MD.device.type, enabled=False):
        if num_sets > 1 and not bool((sizes_S == run).all()):
            num_buckets = len(vectors_MD) * num_candidates // _LOGITS_OF_A_BUCKET
            buckets = _buckets(sizes_S, num_buckets=max(num_buckets, NUM_BUCKETS))
            return _JaggedRuns.apply(vectors_MD, candidates_SKD, bias_SK, buckets)
        if run == 1:  # batched products of a single row are ten times slower on a CPU
            return (vectors_MD.unsqueeze(1) * candidates_SKD).sum(2) + bias_SK
        runs_SWD = vectors_MD.view(num_sets, run, width)
        logits_SWK = torch.baddbmm(bias_SK.unsqueeze(1), runs_SWD, candidates_SKD.mT)
        return logits_SWK.view(num_sets * run, num_candidates)


def hide_hits(logits_MK: Tensor, targets_M: Tensor, *, ids_SK: Tensor, sizes_S: Tensor) -> Tensor:
    """Put -inf, in place, where a candidate is the target of the position by accident.

    Nothing is recorded for gradients: no loss gives a logit of -inf one.

    Args:
        logits_MK: Of the candidates.
        targets_M: Item ids, less than 2^40.
        ids_SK: Item ids of the candidates.
        sizes_S: Positions of each run; they add up to M.
    """
    num_sets, num_candidates = ids_SK.shape
    set_S = torch.arange(num_sets, device=ids_SK.device) << _ID_BITS
    set_M = set_S.repeat_interleave(sizes_S, output_size=len(targets_M))
    keys, order = (set_S.unsqueeze(1) + ids_SK).flatten().sort()
    wanted_M = set_M + targets_M
    first_M = torch.searchsorted(keys, wanted_M)
    num_hits_M = torch.searchsorted(keys, wanted_M, right=True) - first_M
    # Hits are few: each is listed, instead of comparing all of (M, K).
    position = torch.arange(len(targets_M), device=ids_SK.device).repeat_interleave(num_hits_M)
    nth = torch.arange(len(position), device=ids_SK.device)
    nth -= (num_hits_M.cumsum(0) - num_hits_M)[position]
    candidate = order[first_M[position] + nth] % num_candidates
    with torch.no_grad():
        logits_MK[position, candidate] = -torch.inf
    return logits_MK


@dataclass(frozen=True)
class _Bucket:
    """Runs of similar length in a rectangle.

    Attributes:
        position_NW: Position that each slot reads; padding reads the last one of the run.
        row_P: Position that each slot writes, through the rectangle; padding writes to M, which is
            thrown away.
        set_N: Set of each run.
        padding: Slots that are padding, through the rectangle.
    """

    position_NW: Tensor
    row_P: Tensor
    set_N: Tensor
    padding: Tensor


def _buckets(sizes_S: Tensor, *, num_buckets: int) -> list[_Bucket]:
    buckets = LengthBuckets.of(sizes_S, num_buckets=num_buckets)
    num_positions = len(buckets.slot_L)
    sets_S = torch.arange(len(sizes_S), device=sizes_S.device)
    set_M = sets_S.repeat_interleave(sizes_S, output_size=num_positions)
    is_own_P = torch.zeros_like(buckets.token_P, dtype=torch.bool)
    is_own_P[buckets.slot_L] = True
    areas = [count * width for count, width in buckets.shapes]
    parts = zip(buckets.token_P.split(areas), is_own_P.split(areas), buckets.shapes, strict=True)
    return [
        _Bucket(
            position_NW=position_P.view(shape),
            row_P=position_P.where(is_own_P, num_positions),
            set_N=set_M[position_P.view(shape)[:, 0]],
            padding=(~is_own_P).nonzero().squeeze(1),
        )
        for position_P, is_own_P, shape in parts
    ]


class _JaggedRuns(torch.autograd.Function):
    """Batched products, a bucket of runs at a time, that read and write packed positions.

    Autograd over the same products takes twice the time, in copies of (M, K).
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors_MD: Tensor,
        candidates_SKD: Tensor,
        bias_SK: Tensor,
        buckets: list[_Bucket],
    ) -> Tensor:
        ctx.save_for_backward(vectors_MD, candidates_SKD)
        ctx.buckets = buckets
        logits_RK = vectors_MD.new_empty(len(vectors_MD) + 1, candidates_SKD.shape[1])
        for bucket in buckets:
            logits_NWK = torch.baddbmm(
                bias_SK.index_select(0, bucket.set_N).unsqueeze(1),
                _rows(vectors_MD, bucket.position_NW),
                candidates_SKD.index_select(0, bucket.set_N).mT,
            )
            logits_RK.index_copy_(0, bucket.row_P, logits_NWK.flatten(0, 1))
        return logits_RK.resize_(len(vectors_MD), candidates_SKD.shape[1])  # no view, as [:-1] is

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_MK,) = grad_outputs
        vectors_MD, candidates_SKD = ctx.saved_tensors
        grad_vectors_MD = torch.zeros_like(vectors_MD)
        grad_candidates_SKD = torch.zeros_like(candidates_SKD)
        grad_bias_SK = grad_MK.new_zeros(candidates_SKD.shape[:2])
        # Where the backward pass runs under autocast, the products would be of half precision.
        with torch.autocast(vectors_MD.device.type, enabled=False):
            for bucket in ctx.buckets:
                position_NW, set_N = bucket.position_NW, bucket.set_N
                grad_NWK = _rows(grad_MK, position_NW)
                grad_NWK.flatten(0, 1).index_fill_(0, bucket.padding, 0)
                grad_NWD = grad_NWK @ candidates_SKD.index_select(0, set_N)
                grad_vectors_MD.index_add_(0, position_NW.flatten(), grad_NWD.flatten(0, 1))
                grad_NKD = grad_NWK.mT @ _rows(vectors_MD, position_NW)
                grad_candidates_SKD.index_copy_(0, set_N, grad_NKD)
                if ctx.needs_input_grad[2]:
                    grad_bias_SK.index_copy_(0, set_N, grad_NWK.sum(1))
        return grad_vectors_MD, grad_candidates_SKD, grad_bias_SK, None


def _rows(packed: Tensor, position_NW: Tensor) -> Tensor:
    return packed.index_select(0, position_NW.flatten()).view(*position_NW.shape, -1)


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
