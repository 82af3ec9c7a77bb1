"""K-means: every point belongs to the nearest centroid, every centroid is the mean of its points.

Shape legend: N points, K centroids, D numbers of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Both as in FAISS: more points or rounds change the means by little.
POINTS_PER_CENTROID = 256
MAX_ROUNDS = 25
_DISTANCES_AT_ONCE = 1 << 24


def k_means(points_ND: Tensor, num_centroids: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Centroids (K, D), and for each point (N,) which is its own; the same for the same seed.

    Lloyd's rounds from points drawn at random; a centroid that has lost all points moves to one of
    the points that are farthest from theirs.

    Args:
        points_ND: At least one.
        num_centroids: K; there are no more centroids than points.
        seed: Of the points that it begins with, and of the sample where there are many points.
    """
    num_centroids = min(num_centroids, len(points_ND))
    order_N = torch.randperm(len(points_ND), generator=torch.Generator().manual_seed(seed))
    drawn = order_N[: num_centroids * POINTS_PER_CENTROID].to(points_ND.device)
    sample_SD = points_ND[drawn]
    centroids_KD = sample_SD[:num_centroids]
    labels_S = nearest(sample_SD, centroids_KD)
    for _ in range(MAX_ROUNDS):
        centroids_KD, counts_K = means(sample_SD, labels_S, num_centroids)
        lost = (counts_K == 0).nonzero().squeeze(1)
        if len(lost):
            distances_S = (sample_SD - centroids_KD[labels_S]).square().sum(1)
            farthest = distances_S.argsort(descending=True, stable=True)[: len(lost)]
            centroids_KD[lost] = sample_SD[farthest]
        before_S = labels_S
        labels_S = nearest(sample_SD, centroids_KD)
        if torch.equal(labels_S, before_S):
            break
    return centroids_KD, nearest(points_ND, centroids_KD)


def nearest(points_ND: Tensor, centroids_KD: Tensor) -> Tensor:
    """The nearest centroid (N,) of each point, the first of several.

    Args:
        points_ND: At least one.
        centroids_KD: At least one.
    """
    squares_K = centroids_KD.square().sum(1)
    parts = points_ND.split(max(1, _DISTANCES_AT_ONCE // len(centroids_KD)))
    # Squared distances but for the square of the point, which is the same for all centroids.
    labels = [torch.addmm(squares_K, part, centroids_KD.T, alpha=-2).argmin(1) for part in parts]
    return torch.cat(labels)


def means(values_ND: Tensor, labels_N: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """Mean of the values of each label, zeros where there are none, and how many there are.

    Args:
        values_ND: At least one.
        labels_N: 0 ... num_labels - 1.
        num_labels: K.
    """
    counts_K = torch.bincount(labels_N, minlength=num_labels)
    # Not index_add: on a GPU its sums differ from call to call.
    in_order = values_ND[labels_N.argsort(stable=True)]
    sums_KD = torch.segment_reduce(in_order, "sum", lengths=counts_K, axis=0)
    return sums_KD / counts_K.clamp(min=1).unsqueeze(1), counts_K
