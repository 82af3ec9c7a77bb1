"""What a ranker looks at in the vector of a field, whatever its layers are."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.protocols import Ranker
from recsys.search.sample import Sample
from recsys.types import Embedded


def gradient_moments(ranker: Ranker, sample: Sample) -> dict[str, Tensor]:
    """M = G^T G by field, (C, C) in float64; a row of G is the gradient of an example's logit.

    The logit is that of the first label. For a linear reader M is the outer product of its weights
    with themselves, times the number of examples.

    Args:
        ranker: In evaluation mode, so that examples do not depend on each other.
        sample: The examples.
    """
    moments = {
        key: torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
        for key, vectors in sample.embedded.fields.items()
    }
    for part in sample.parts():
        leaves = {key: v.detach().requires_grad_() for key, v in part.fields.items()}
        logits_BT = ranker(Embedded(fields=leaves, sequences={}, dense_BN=part.dense_BN))
        found = torch.autograd.grad(
            logits_BT[:, 0].sum(), [*leaves.values()], allow_unused=True, materialize_grads=True
        )
        for key, gradient_BC in zip(leaves, found, strict=True):
            moments[key] += gradient_BC.double().T @ gradient_BC.double()
    return moments
