"""Exact metrics of one binary label: AUC, logloss, GAUC, normalised entropy, calibration.

B examples of a batch · E examples of all batches · G groups (users).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


class RankingMetrics(Metric):
    """Keeps every prediction and computes all metrics with one sort by prediction.

    `compute` gives a dict. A metric that the data leave undefined is NaN: AUC and normalised
    entropy with one class only, GAUC without a user of both classes.

    * auc: probability that a positive scores above a negative; ties count one half.
    * logloss: mean binary cross-entropy in nats.
    * gauc: AUC within each user, averaged with the users' weight; users whose labels are all
      equal are left out, as are examples without a user.
    * normalized_entropy: logloss by that of always predicting the share of positives.
    * calibration: mean prediction by mean label.
    * num_examples: how many were counted.

    All are weighted by the examples' weights; with equal weights that changes nothing.

    Source: GAUC: Zhou et al., DIN (2018), https://arxiv.org/abs/1706.06978, section 5.2, eq. 7.
    Normalised entropy and calibration: He et al., Practical Lessons from Predicting Clicks on Ads
    at Facebook (2014), https://doi.org/10.1145/2648584.2648589, section 2.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    logits: list[Tensor]
    labels: list[Tensor]
    weights: list[Tensor]
    users: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("logits", "labels", "weights", "users"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self, logits_B: Tensor, labels_B: Tensor, weights_B: Tensor, users_B: Tensor
    ) -> None:
        """Take in a batch.

        Args:
            logits_B: Scores before the sigmoid.
            labels_B: 0 or 1; examples with NaN have no label and are not counted.
            weights_B: Weight of each example; those of weight 0 are not counted.
            users_B: A number per user, below 0 where there is none.
        """
        counts = (weights_B > 0) & ~labels_B.isnan()
        self.logits.append(logits_B.detach()[counts].float())
        self.labels.append(labels_B[counts].float())
        self.weights.append(weights_B[counts].float())
        self.users.append(users_B[counts])

    def compute(self) -> dict[str, Tensor]:
        """Give all metrics by name, as scalars in float64.

        Under several ranks each of them must have taken in a batch, be it an empty one.
        """
        logits_E, labels_E = _joined(self.logits), _joined(self.labels).double()
        weights_E, users_E = _joined(self.weights).double(), _joined(self.users)

        order_E = logits_E.argsort()
        by_score = (logits_E[order_E], labels_E[order_E], weights_E[order_E])
        users_E = users_E[order_E]
        has_user_E = users_E >= 0

        losses_E = F.binary_cross_entropy_with_logits(logits_E.double(), labels_E, reduction="none")
        total = weights_E.sum()
        logloss = (losses_E * weights_E).sum() / total
        mean_label = (labels_E * weights_E).sum() / total
        mean_prediction = (logits_E.double().sigmoid() * weights_E).sum() / total
        entropy = -(mean_label.xlogy(mean_label) + (1 - mean_label).xlogy(1 - mean_label))
        return {
            "auc": grouped_auc(*by_score, torch.zeros_like(users_E)),
            "logloss": logloss,
            "gauc": grouped_auc(*(part[has_user_E] for part in (*by_score, users_E))),
            "normalized_entropy": torch.where(entropy > 0, logloss / entropy, math.nan),
            "calibration": torch.where(mean_label > 0, mean_prediction / mean_label, math.nan),
            "num_examples": total.new_tensor(len(logits_E)),
        }


def _joined(state: Tensor | list[Tensor]) -> Tensor:
    """A state as one tensor, which it already is once the ranks have been gathered."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.zeros(0)


def grouped_auc(scores_E: Tensor, labels_E: Tensor, weights_E: Tensor, groups_E: Tensor) -> Tensor:
    """AUC within each group, averaged with the groups' weight; NaN where no group has both classes.

    Args:
        scores_E: In rising order; equal scores count one half.
        labels_E: 0 or 1.
        weights_E: A pair weighs the product of its two weights, a group the sum of its weights.
        groups_E: A number per group.
    """
    if scores_E.isnan().any():
        return weights_E.new_tensor(math.nan)
    order_E = groups_E.argsort(stable=True)
    scores_E, groups_E = scores_E[order_E], groups_E[order_E]
    positive_E = (labels_E * weights_E)[order_E]
    negative_E = weights_E[order_E] - positive_E

    group_E = groups_E.unique_consecutive(return_inverse=True)[1]
    starts_tie_E = torch.ones_like(group_E, dtype=torch.bool)
    starts_tie_E[1:] = (scores_E[1:] != scores_E[:-1]) | (group_E[1:] != group_E[:-1])
    tie_E = starts_tie_E.cumsum(0) - 1

    group_of_tie = group_E[starts_tie_E]
    positive_of_tie = _sum_by(tie_E, positive_E)
    negative_of_tie = _sum_by(tie_E, negative_E)
    positive_G = _sum_by(group_E, positive_E)
    negative_G = _sum_by(group_E, negative_E)
    below_group_G = negative_G.cumsum(0) - negative_G
    below_tie = negative_of_tie.cumsum(0) - negative_of_tie - below_group_G[group_of_tie]

    won_G = _sum_by(group_of_tie, positive_of_tie * (below_tie + negative_of_tie / 2))
    has_both_G = (positive_G > 0) & (negative_G > 0)
    auc_G = (won_G / (positive_G * negative_G))[has_both_G]
    weight_G = (positive_G + negative_G)[has_both_G]
    return (auc_G * weight_G).sum() / weight_G.sum()


def _sum_by(group_E: Tensor, values_E: Tensor) -> Tensor:
    """Sum of the values of each group; groups are numbered from 0 in rising order."""
    num_groups = int(group_E[-1]) + 1 if len(group_E) else 0
    return values_E.new_zeros(num_groups).index_add(0, group_E, values_E)
