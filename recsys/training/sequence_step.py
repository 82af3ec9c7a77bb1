"""What a training step of the sequence task asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.losses import SampledLoss
from recsys.nn.candidates import sampled_logits
from recsys.nn.tokens import Tokens
from recsys.tables.early import BegunLookup, record_stream
from recsys.training.negatives import Negatives


@dataclass(frozen=True)
class SequenceStep:
    """All that follows from a batch and the number of the step, so that it can be begun early.

    Attributes:
        inputs: What the encoder reads.
        wanted_L: Tokens of the histories that are predicted.
        masked_M: Which of the inputs the cloze hides, in rising order; None without.
        targets_M: Items to be predicted; 0 where a row only fills up the batch.
        negatives: What they are compared with; None: with the whole catalogue.
        candidates: Ids of targets, then of negatives; None without negatives.
        keyed: What is looked up.
        begun: The look-up, where it has begun.
    """

    inputs: Tokens
    wanted_L: Tensor
    masked_M: Tensor | None
    targets_M: Tensor
    negatives: Negatives | None
    candidates: Tensor | None
    keyed: KeyedJaggedTensor
    begun: BegunLookup | None = None

    def of_candidates(self, vectors_LD: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the candidates, the last that were looked up, and their ids.

        Args:
            vectors_LD: Looked up by the key of the candidates.
        """
        assert self.candidates is not None
        return vectors_LD[len(vectors_LD) - len(self.candidates) :], self.candidates

    def send(self) -> None:
        """Send rows to the ranks that hold them."""
        if self.begun is not None:
            self.begun.send()

    def arrive(self) -> None:
        """Take what the other ranks sent."""
        if self.begun is not None:
            self.begun.arrive()

    def record_stream(self, stream: torch.cuda.streams.Stream) -> None:
        """Keep the memory until the stream is done with it."""
        drawn = (self.negatives, self.candidates, self.keyed, self.begun)
        record_stream((self.inputs, self.wanted_L, self.masked_M, self.targets_M, *drawn), stream)


def share_of_all(here: Tensor, *, world_size: int) -> Tensor | float:
    """Makes the mean over ranks of their means the mean over all.

    Args:
        here: How many this rank's mean is of.
        world_size: Ranks.
    """
    if world_size == 1:
        return 1.0
    everywhere = here.clone()
    dist.all_reduce(everywhere)
    return here * world_size / everywhere.clamp(min=1)


def sampled_losses(
    loss: SampledLoss,
    asked: SequenceStep,
    *,
    vectors_MD: Tensor,
    items_TD: Tensor,
    widths: Sequence[int],
    bias_V: Tensor | None,
    num_items: int,
) -> list[Tensor]:
    """The losses at all widths.

    Args:
        loss: Compares logits of targets with those of negatives.
        asked: With negatives.
        vectors_MD: What each position predicts.
        items_TD: Vectors of the targets, then of the negatives.
        widths: First numbers of vectors that serve alone, the whole width among them.
        bias_V: Bias of each item.
        num_items: V.
    """
    negatives, targets_M = asked.negatives, asked.targets_M
    assert negatives is not None
    losses = []
    for width in widths:
        positives_M, negatives_MK = sampled_logits(
            vectors_MD[:, :width],
            items_TD[:, :width],
            targets_M=targets_M,
            ids_SK=negatives.ids_SK,
            sizes_S=negatives.sizes_S,
            bias_V=bias_V,
            log_expected_SK=negatives.log_expected_SK if loss.log_q else None,
        )
        is_counted_M = targets_M > 0
        losses.append(
            loss(positives_M, negatives_MK, is_counted_M=is_counted_M, num_items=num_items)
        )
    return losses
