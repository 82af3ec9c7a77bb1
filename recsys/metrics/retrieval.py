"""Metrics of ranking the whole catalogue for one target item per example.

B examples · V items, the out-of-vocabulary id 0 included · K places.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from features.errors import RunConfigError

MISS = -1
"""Rank of a target that is not in the catalogue."""


def remove_seen(
    scores_BV: Tensor, targets_B: Tensor, seen_values: Tensor, seen_lengths_B: Tensor
) -> Tensor:
    """A copy of the scores with -inf for id 0 and each example's seen items, but not its target.

    Args:
        scores_BV: Higher is better.
        targets_B: Item id that stays a candidate even if it was seen; 0 where there is none.
        seen_values: Item ids, packed; repeats are fine.
        seen_lengths_B: Their number per example.
    """
    candidates_BV = scores_BV.clone()
    rows = torch.arange(len(scores_BV), device=scores_BV.device)
    candidates_BV[rows.repeat_interleave(seen_lengths_B), seen_values] = -torch.inf
    candidates_BV[rows, targets_B] = scores_BV[rows, targets_B]
    candidates_BV[:, 0] = -torch.inf
    return candidates_BV


def rank_targets(candidates_BV: Tensor, targets_B: Tensor) -> Tensor:
    """Place of each target in the ranking, from 0; `MISS` where the target is id 0.

    Ties count against the target: every other item that does not score strictly lower stands
    above it. So a model that gives all items one score ranks every target last, where the
    opposite rule would make it perfect; and the result depends on no order of ids.

    Args:
        candidates_BV: Scores as `remove_seen` gives them; NaN counts as above the target.
        targets_B: Item ids.
    """
    target_scores_B1 = candidates_BV.gather(1, targets_B.unsqueeze(1))
    is_below_BV = candidates_BV < target_scores_B1
    ranks_B = candidates_BV.shape[1] - 1 - is_below_BV.sum(dim=1)
    return torch.where(targets_B > 0, ranks_B, MISS)


def top_k(candidates_BV: Tensor, k: int) -> Tensor:
    """Ids of the best k items, best first; 0 where fewer than k are left.

    Args:
        candidates_BV: Scores as `remove_seen` gives them.
        k: Number of places, at most V.
    """
    scores_BK, ids_BK = candidates_BV.topk(k, dim=1)
    return torch.where(scores_BK == -torch.inf, 0, ids_BK)


class CatalogueMetrics(Metric):
    """Hit rate, NDCG, MRR and coverage in the first k places.

    `compute` gives a dict with, for each k, in which the rank r counts from 0:

    * hr@k: share of examples with r < k (with one target it is the recall too).
    * ndcg@k: mean of 1 / log2(r + 2) where r < k, else 0.
    * mrr@k: mean of 1 / (r + 1) where r < k, else 0.
    * coverage@k: share of the catalogue that is in the first k places of some example.

    and `num_examples`.

    Args:
        ks: Lengths of the list.
        num_items: V; id 0 is not part of the catalogue.

    Source: Järvelin and Kekäläinen (2002), https://doi.org/10.1145/582415.582418, for NDCG.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    num_examples: Tensor
    hits_K: Tensor
    gains_K: Tensor
    reciprocals_K: Tensor
    is_shown_KV: Tensor

    def __init__(self, *, ks: tuple[int, ...] = (10,), num_items: int) -> None:
        super().__init__()
        wrong = [k for k in ks if not 1 <= k < num_items]
        if wrong or not ks:
            raise RunConfigError(
                f"CatalogueMetrics.ks: no length of a list of {num_items - 1} items, got "
                f"{wrong}; allowed 1 to {num_items - 1}; choose smaller ones"
            )
        self.ks = ks
        zeros_K = torch.zeros(len(ks), dtype=torch.float64)
        self.add_state("num_examples", default=torch.tensor(0), dist_reduce_fx="sum")
        for name in ("hits_K", "gains_K", "reciprocals_K"):
            self.add_state(name, default=zeros_K.clone(), dist_reduce_fx="sum")
        self.add_state(
            "is_shown_KV",
            default=torch.zeros(len(ks), num_items, dtype=torch.uint8),
            dist_reduce_fx="max",
        )

    def update(self, ranks_B: Tensor, top_BK: Tensor) -> None:
        """Take in a batch.

        Args:
            ranks_B: As `rank_targets` gives them.
            top_BK: As `top_k` gives them, for the largest k at least.
        """
        self.num_examples += len(ranks_B)
        for row, k in enumerate(self.ks):
            ranks_hit = ranks_B[(ranks_B >= 0) & (ranks_B < k)].double()
            self.hits_K[row] += len(ranks_hit)
            self.gains_K[row] += (1 / (ranks_hit + 2).log2()).sum()
            self.reciprocals_K[row] += (1 / (ranks_hit + 1)).sum()
            self.is_shown_KV[row, top_BK[:, :k].flatten()] = 1

    def compute(self) -> dict[str, Tensor]:
        """Give all metrics by name, as scalars; NaN before the first example."""
        is_shown_KV = self.is_shown_KV[:, 1:].double()
        metrics: dict[str, Tensor] = {}
        for row, k in enumerate(self.ks):
            metrics[f"hr@{k}"] = self.hits_K[row] / self.num_examples
            metrics[f"ndcg@{k}"] = self.gains_K[row] / self.num_examples
            metrics[f"mrr@{k}"] = self.reciprocals_K[row] / self.num_examples
            metrics[f"coverage@{k}"] = is_shown_KV[row].mean()
        return metrics | {"num_examples": self.num_examples.double()}
