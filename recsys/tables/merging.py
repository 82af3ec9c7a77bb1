"""Blocks of rows that are alike: which of them can stand for which.

Shape legend: B blocks, K of them in order, P of these at once, C that may be alike, R rows of a
block, D numbers of a row, E numbers of a block, S signatures; the last block of a feature may have
fewer rows, and is filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Of the signatures, as in Hetu (2024).
SIGNATURE_WIDTH, NUM_SIGNATURES = 0.09, 90
_QUARTILE = 0.75
_NUMBERS_AT_ONCE = 1 << 24
_PAIRS_AT_ONCE = 1 << 16  # as many numbers stay in the cache
_SHARE_OF_ROUND = 0.25


@dataclass(frozen=True)
class Likeness:
    """When a block can stand for another.

    Attributes:
        tolerance: Numbers that differ by no more are alike.
        share: Of a block's numbers that must be alike.
        seed: Of the signatures.
    """

    tolerance: float
    share: float
    seed: int


def merge_blocks(
    blocks_BRD: Tensor, lengths_B: Tensor, *, num_rows: int, likeness: Likeness
) -> Tensor:
    """The block (B,) that stands for each: itself where it is kept.

    In rounds. Blocks are in order of the third quartile of their magnitudes. Each looks for the
    most similar earlier one, that which has the most numbers alike among those that have one of its
    L2-LSH signatures; the most similar pairs are merged first, until the kept blocks hold no more
    rows than there may be. Where no pair is similar enough, the nearest are merged, a quarter of
    them in a round. A block is never merged into one that is merged in the same round.

    Args:
        blocks_BRD: Trained rows.
        lengths_B: Rows of each block; a block is merged into none of fewer rows.
        num_rows: That the kept blocks may have; at least those of the longest block.
        likeness: When blocks are similar enough.
    """
    stands_B = torch.arange(len(blocks_BRD))
    order = _order(blocks_BRD, lengths_B)
    signatures_BS = _signatures(blocks_BRD, seed=likeness.seed)
    are_similar = True
    while int(lengths_B[order].sum()) > num_rows:
        pairs: list[tuple[float, int, int]] = []
        if are_similar:
            pairs = list(_similar(blocks_BRD, lengths_B, signatures_BS, order, likeness))
            are_similar = bool(pairs)
        if not are_similar:
            pairs = sorted(_nearest(blocks_BRD, lengths_B, order))
            pairs = pairs[: max(1, int(len(pairs) * _SHARE_OF_ROUND))]
        excess = int(lengths_B[order].sum()) - num_rows
        merged = _merged(sorted(pairs), lengths_B, excess=excess)
        for block, target in merged.items():
            stands_B[stands_B == block] = target
        is_kept_B = stands_B == torch.arange(len(stands_B))
        order = order[is_kept_B[order]]
    return stands_B


def _order(blocks_BRD: Tensor, lengths_B: Tensor) -> Tensor:
    """Long blocks first, since short ones cannot stand for them; then by third quartiles."""
    quartiles = [
        torch.quantile(rows[:length].abs().flatten()[:_NUMBERS_AT_ONCE], _QUARTILE)
        for rows, length in zip(blocks_BRD, lengths_B.tolist(), strict=True)
    ]
    by_quartile = torch.stack(quartiles).argsort(stable=True)
    return by_quartile[lengths_B[by_quartile].argsort(descending=True, stable=True)]


def _signatures(blocks_BRD: Tensor, *, seed: int) -> Tensor:
    """L2-LSH: ceil((a x + b) / width) for normal a and uniform b.

    Source: Datar et al., Locality-Sensitive Hashing Scheme Based on p-Stable Distributions (2004).
    """
    drawn = torch.Generator().manual_seed(seed)
    flat_BE = blocks_BRD.flatten(1)
    directions_ES = torch.randn(flat_BE.shape[1], NUM_SIGNATURES, generator=drawn)
    offsets_S = torch.rand(NUM_SIGNATURES, generator=drawn) * SIGNATURE_WIDTH
    return ((flat_BE @ directions_ES + offsets_S) / SIGNATURE_WIDTH).ceil().int()


def _similar(
    blocks_BRD: Tensor,
    lengths_B: Tensor,
    signatures_BS: Tensor,
    order: Tensor,
    likeness: Likeness,
) -> Iterator[tuple[float, int, int]]:
    """Blocks with their most similar earlier ones: (minus the share that is alike, block, one)."""
    signatures_SK = signatures_BS[order].T.contiguous()
    for length in lengths_B[order].unique().tolist():
        flat_EK = blocks_BRD[order, :length].flatten(1).T.contiguous()
        places = (lengths_B[order] == length).nonzero().squeeze(1)
        for part in places.split(max(1, _PAIRS_AT_ONCE // len(order))):
            shares_PK = _shares(flat_EK, part, tolerance=likeness.tolerance)
            is_earlier_PK = torch.arange(shares_PK.shape[1]) < part[:, None]
            is_alike_PK = is_earlier_PK & (shares_PK >= likeness.share)
            columns = is_alike_PK.any(0).nonzero().squeeze(1)  # few, so signatures come last
            if not len(columns):
                continue
            is_similar_PC = is_alike_PK[:, columns] & _have_one(signatures_SK, part, columns)
            best_P, columns_P = shares_PK[:, columns].where(is_similar_PC, -1).max(1)
            for row in is_similar_PC.any(1).nonzero().squeeze(1).tolist():
                other = order[columns[columns_P[row]]]
                yield -float(best_P[row]), int(order[part[row]]), int(other)


def _shares(flat_EK: Tensor, part: Tensor, *, tolerance: float) -> Tensor:
    """Share of the numbers (P, K) of some blocks that are like those of each before the last."""
    stop = int(part[-1])
    counts_PK = flat_EK.new_zeros(len(part), stop)
    offsets_PK = torch.empty_like(counts_PK)
    for numbers_K in flat_EK:
        torch.sub(numbers_K[:stop], numbers_K[part, None], out=offsets_PK)
        counts_PK += offsets_PK.abs_().le_(tolerance)
    return counts_PK / len(flat_EK)


def _have_one(signatures_SK: Tensor, part: Tensor, columns: Tensor) -> Tensor:
    """Whether some blocks have a signature (P, C) of others."""
    found_PC = torch.zeros(len(part), len(columns), dtype=torch.bool)
    for signature_K in signatures_SK:
        found_PC |= signature_K[part, None] == signature_K[columns]
    return found_PC


def _nearest(
    blocks_BRD: Tensor, lengths_B: Tensor, order: Tensor
) -> Iterator[tuple[float, int, int]]:
    """Blocks with their nearest earlier ones: (mean squared difference, block, one)."""
    for length in lengths_B[order].unique().tolist():
        flat_KE = blocks_BRD[order, :length].flatten(1)
        places = (lengths_B[order] == length).nonzero().squeeze(1)
        squares_K = flat_KE.square().sum(1)
        for part in places[places > 0].split(max(1, _NUMBERS_AT_ONCE // len(order))):
            offsets_PK = torch.addmm(squares_K, flat_KE[part], flat_KE.T, alpha=-2)
            is_later_PK = torch.arange(len(order)) >= part[:, None]
            nearest_P = offsets_PK.masked_fill(is_later_PK, torch.inf).argmin(1)
            means_P = (flat_KE[part] - flat_KE[nearest_P]).square().mean(1)
            for mean, block, other in zip(means_P, order[part], order[nearest_P], strict=True):
                yield float(mean), int(block), int(other)


def _merged(
    pairs: list[tuple[float, int, int]], lengths_B: Tensor, *, excess: int
) -> dict[int, int]:
    """Pairs to merge, in order, until so many rows are gone."""
    merged: dict[int, int] = {}
    targets: set[int] = set()
    for _, block, target in pairs:
        if excess <= 0:
            break
        if target in merged or block in targets:
            continue
        merged[block] = target
        targets.add(target)
        excess -= int(lengths_B[block])
    return merged
