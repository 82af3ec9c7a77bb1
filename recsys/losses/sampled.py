"""Losses of a positive item against a few sampled negatives.

M positions that predict · K negatives of each.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from features.errors import RunConfigError, did_you_mean
from recsys.protocols import SequenceLoss

NegativesPer = Literal["sequence", "position", "batch"]
NegativesFrom = Literal["uniform", "popularity"]

_LOG2_E = math.log2(math.e)


class SampledLoss(SequenceLoss):
    """How many negatives are drawn, from where, and what they cost.

    Args:
        num_negatives: K, drawn with replacement.
        negatives_per: What shares a draw: the positions of a `sequence`, no other `position`, or
            the whole `batch`. One draw per position reads K item vectors for each.
        negatives_from: `uniform` over the catalogue, or by `popularity` in training.

    Attributes:
        log_q: Whether negatives are to come with the log of their expected count subtracted.

    Raises:
        RunConfigError: a setting is out of range.
    """

    log_q: bool = False

    def __init__(
        self, *, num_negatives: int, negatives_per: NegativesPer, negatives_from: NegativesFrom
    ) -> None:
        self.num_negatives = num_negatives
        self.negatives_per: NegativesPer = negatives_per
        self.negatives_from: NegativesFrom = negatives_from
        if mistakes := self.mistakes():
            raise RunConfigError(f"{type(self).__name__}.{mistake}" for mistake in mistakes)

    @abstractmethod
    def __call__(
        self,
        positives_M: Tensor,
        negatives_MK: Tensor,
        *,
        is_counted_M: Tensor,
        num_items: int,
    ) -> Tensor:
        """Mean over the counted positions; 0 where there is none.

        Args:
            positives_M: Logit of the target.
            negatives_MK: Logits of the negatives; -inf, for one that is the target by accident,
                costs nothing and has no gradient.
            is_counted_M: False where a position has no target.
            num_items: Ids of the catalogue, the out-of-vocabulary id 0 included.
        """

    def mistakes(self) -> list[str]:
        """What is wrong with the settings."""
        found = []
        if self.num_negatives < 1:
            found.append(
                f"num_negatives: is too small, got {self.num_negatives}; allowed 1 or more"
            )
        for name, value, allowed in (
            ("negatives_per", self.negatives_per, get_args(NegativesPer)),
            ("negatives_from", self.negatives_from, get_args(NegativesFrom)),
        ):
            if value not in allowed:
                hint = did_you_mean(str(value), allowed)
                found.append(
                    f"{name}: is unknown, got {value!r}; allowed {', '.join(allowed)}{hint}"
                )
        return found


class SampledSoftmax(SampledLoss):
    """Cross-entropy of the target among itself and the negatives.

    With `log_q` it estimates the softmax over the whole catalogue: a negative drawn with
    probability q stands for 1 / (K q) items, so log(K q) is subtracted from its logit, under
    uniform negatives too. The target is always there, not drawn, so its logit stays as it is.
    Without `log_q`, negatives by popularity push popular items down.

    Args:
        num_negatives: K, drawn with replacement.
        negatives_per: What shares a draw: `sequence`, `position` or `batch`.
        negatives_from: `uniform` over the catalogue, or by `popularity` in training.
        log_q: Whether to correct for how often each negative is drawn.

    Source: Bengio and Senécal, Adaptive Importance Sampling (2008), section III. That the target
    is not corrected: Khrylchenko et al. (2025), https://arxiv.org/abs/2507.09331, section 3; Yi et
    al. (2019), https://doi.org/10.1145/3298689.3346996, and TensorFlow's sampled_softmax_loss
    correct it too. 256 uniform negatives: eSASRec (2025), https://arxiv.org/abs/2508.06450.
    """

    def __init__(
        self,
        *,
        num_negatives: int = 256,
        negatives_per: NegativesPer = "sequence",
        negatives_from: NegativesFrom = "uniform",
        log_q: bool = False,
    ) -> None:
        super().__init__(
            num_negatives=num_negatives,
            negatives_per=negatives_per,
            negatives_from=negatives_from,
        )
        self.log_q = log_q

    def __call__(
        self,
        positives_M: Tensor,
        negatives_MK: Tensor,
        *,
        is_counted_M: Tensor,
        num_items: int,
    ) -> Tensor:
        """Give -log(exp(s+) / (exp(s+) + sum of exp(s-)))."""
        weights_M = _mean_weights(is_counted_M, like=positives_M)
        return _SampledSoftmax.apply(positives_M, negatives_MK, weights_M)


class BinaryCrossEntropy(SampledLoss):
    """SASRec's loss: is this the next item, asked of the target and of each negative.

    Args:
        num_negatives: K, drawn with replacement.
        negatives_per: What shares a draw: `sequence`, `position` or `batch`.
        negatives_from: `uniform` over the catalogue, or by `popularity` in training.

    Source: Kang and McAuley, SASRec (2018), https://arxiv.org/abs/1808.09781, equation 9.

    Differs from the paper: it is the mean over the target and its negatives, not the sum, so that
    more of them need no other learning rate; negatives may be items of the user's history; and
    log(1 / K) is added to all logits, which is 0 for the paper's single negative, so that scores
    start where the target and its negatives pull alike.
    """

    def __init__(
        self,
        *,
        num_negatives: int = 1,
        negatives_per: NegativesPer = "position",
        negatives_from: NegativesFrom = "uniform",
    ) -> None:
        super().__init__(
            num_negatives=num_negatives,
            negatives_per=negatives_per,
            negatives_from=negatives_from,
        )

    def __call__(
        self,
        positives_M: Tensor,
        negatives_MK: Tensor,
        *,
        is_counted_M: Tensor,
        num_items: int,
    ) -> Tensor:
        """Give -(log σ(s+) + sum of log(1 - σ(s-))) / (K + 1)."""
        return _binary_cross_entropy(
            positives_M, negatives_MK, is_counted_M=is_counted_M, positive_weight=1.0
        )


class GeneralizedBCE(SampledLoss):
    """gSASRec's loss: binary cross-entropy with σ(s+)^β, so that few negatives do not overrate.

    β = α (t (1 - 1/α) + 1/α) with the calibration t and the share α of the other items that are
    drawn as negatives, at most 1. As log σ(s+)^β = β log σ(s+), β is a weight of the target.

    Args:
        num_negatives: K, drawn with replacement.
        calibration: t; 0 is plain binary cross-entropy, and 1 gives scores whose sigmoid is a
            probability.
        negatives_per: What shares a draw: `sequence`, `position` or `batch`.
        negatives_from: `uniform` over the catalogue, or by `popularity` in training.

    Source: Petrov and Macdonald, gSASRec (2023), https://arxiv.org/abs/2308.07192, section 5.

    Differs from the paper: negatives are drawn per sequence unless asked otherwise, one that is
    the target by accident is left out, and log(β / K) is added to all logits, so that scores start
    where the target and its negatives pull alike; the sigmoid of a score with it is what
    `calibration` is about.
    """

    def __init__(
        self,
        *,
        num_negatives: int = 256,
        calibration: float = 0.75,
        negatives_per: NegativesPer = "sequence",
        negatives_from: NegativesFrom = "uniform",
    ) -> None:
        self.calibration = calibration
        super().__init__(
            num_negatives=num_negatives,
            negatives_per=negatives_per,
            negatives_from=negatives_from,
        )

    def mistakes(self) -> list[str]:
        """What is wrong with the settings."""
        found = super().mistakes()
        if not 0 <= self.calibration <= 1:
            found.append(f"calibration: is no share, got {self.calibration}; allowed 0 to 1")
        return found

    def __call__(
        self,
        positives_M: Tensor,
        negatives_MK: Tensor,
        *,
        is_counted_M: Tensor,
        num_items: int,
    ) -> Tensor:
        """Give -(β log σ(s+) + sum of log(1 - σ(s-))) / (K + 1)."""
        num_others = max(num_items - 2, 1)  # all but id 0 and the target
        rate = min(negatives_MK.shape[1] / num_others, 1.0)
        beta = rate * (self.calibration * (1 - 1 / rate) + 1 / rate)
        return _binary_cross_entropy(
            positives_M, negatives_MK, is_counted_M=is_counted_M, positive_weight=beta
        )


def _binary_cross_entropy(
    positives_M: Tensor, negatives_MK: Tensor, *, is_counted_M: Tensor, positive_weight: float
) -> Tensor:
    shift = _balance(positive_weight, num_negatives=negatives_MK.shape[1])
    losses_M = positive_weight * F.softplus(-positives_M - shift)
    losses_M = losses_M + F.softplus(negatives_MK + shift).sum(1)
    weights_M = _mean_weights(is_counted_M, like=positives_M)
    return (losses_M * weights_M).sum() / (negatives_MK.shape[1] + 1)


def _balance(positive_weight: float, *, num_negatives: int) -> float:
    """The logit at which the target pulls as strongly as its negatives: log(β / K).

    With many negatives it is far below 0. Where scores had to get there by themselves, all item
    vectors would first take on one large common part, beside which little is seen of the rest:
    SASRec with 256 negatives then stayed at the popular items for ten epochs of MovieLens-1M.
    """
    return math.log(positive_weight / num_negatives)


def _mean_weights(is_counted_M: Tensor, *, like: Tensor) -> Tensor:
    """Weights whose sum with values is the mean of the counted ones."""
    return is_counted_M.to(like.dtype) / is_counted_M.sum().clamp(min=1)


class _SampledSoftmax(torch.autograd.Function):
    """The weighted sum of the losses with its gradients, in base 2 as in `full_softmax`.

    It takes half the time of torch.logsumexp, whose gradient is NaN where all negatives are -inf.
    """

    @staticmethod
    def forward(ctx: Any, positives_M: Tensor, negatives_MK: Tensor, weights_M: Tensor) -> Tensor:
        highest_M = torch.maximum(negatives_MK.amax(1), positives_M)
        powers_MK = (negatives_MK - highest_M.unsqueeze(1)).mul_(_LOG2_E).exp2_()
        power_M = (positives_M - highest_M).exp()
        normalizer_M = powers_MK.sum(1) + power_M
        ctx.save_for_backward(
            weights_M * (power_M / normalizer_M - 1),
            powers_MK.mul_((weights_M / normalizer_M).unsqueeze(1)),
        )
        return (weights_M * (normalizer_M.log() + (highest_M - positives_M))).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        grad_positives_M, grad_negatives_MK = ctx.saved_tensors
        return grad * grad_positives_M, grad * grad_negatives_MK, None
