"""Losses of the two kinds of models."""

from recsys.losses.full_softmax import FullSoftmax, full_softmax
from recsys.losses.ranking import binary_cross_entropy
from recsys.losses.sampled import (
    BinaryCrossEntropy,
    GeneralizedBCE,
    SampledLoss,
    SampledSoftmax,
)

__all__ = [
    "BinaryCrossEntropy",
    "FullSoftmax",
    "GeneralizedBCE",
    "SampledLoss",
    "SampledSoftmax",
    "binary_cross_entropy",
    "full_softmax",
]
