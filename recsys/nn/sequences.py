"""Packed sequences, cut into buckets of similar length for attention.

Layers that treat each token alone run on packed tokens, without padding. Only attention needs
rectangles; it gets a few, one per bucket of sequences of similar length.

B sequences · L tokens of all of them, packed · P slots of all buckets, padding included ·
S sequences with a token, sorted by length · W slots of one sequence · M tokens whose outputs are
wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor

from features.errors import RunConfigError

# More buckets pad less and launch more kernels. On a CPU (256 sequences, 50 tokens in the mean,
# 200 at most) a block took 286 ms with 1, 158 with 4, 140 with 6 to 8, 125 with 16.
NUM_BUCKETS = 8


@dataclass(frozen=True)
class LengthBuckets:
    """Where the tokens of a batch lie in rectangles padded on the right, one per bucket.

    Made once per batch and shared by all blocks. A padding slot repeats the last token of its
    sequence; what is computed there is never read.

    Attributes:
        token_P: Packed token that fills each slot, bucket after bucket.
        slot_L: Slot of each packed token.
        from_end_L: Distance of each token from the end of its sequence, 0 for the last.
        shapes: Number of sequences, and slots per sequence, of each bucket.
        is_token: Per bucket, which of its slots hold a token; None where all do.
    """

    token_P: Tensor
    slot_L: Tensor
    from_end_L: Tensor
    shapes: tuple[tuple[int, int], ...]
    is_token: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, lengths_B: Tensor, *, num_buckets: int = NUM_BUCKETS) -> Self:
        """Sort the sequences by length and cut them into buckets of equally many.

        The index tensors are built on the CPU, so a GPU is waited for once.

        Args:
            lengths_B: Tokens of each sequence; empty sequences are in no bucket.
            num_buckets: Highest number of buckets.
        """
        device, lengths_B = lengths_B.device, lengths_B.detach().cpu().long()
        starts_B = lengths_B.cumsum(0) - lengths_B
        order_S = lengths_B.argsort(stable=True)
        order_S = order_S[lengths_B[order_S] > 0]
        lengths_S, starts_S = lengths_B[order_S], starts_B[order_S]
        buckets = [bucket for bucket in lengths_S.tensor_split(num_buckets) if len(bucket)]
        shapes = tuple((len(bucket), int(bucket[-1])) for bucket in buckets)

        widths_S = torch.tensor([width for count, width in shapes for _ in range(count)]).long()
        rank_P, place_P = places(widths_S, num_tokens=int(widths_S.sum()))
        token_P = starts_S[rank_P] + place_P.minimum(lengths_S[rank_P] - 1)
        is_token_P = place_P < lengths_S[rank_P]
        slots_L = is_token_P.nonzero().squeeze(1)
        slot_L = torch.empty_like(slots_L)
        slot_L[token_P[slots_L]] = slots_L

        sequence_L, place_L = places(lengths_B, num_tokens=len(slot_L))
        from_end_L = lengths_B[sequence_L] - 1 - place_L
        parts = is_token_P.split([count * width for count, width in shapes])
        is_token = tuple(
            None if bool(part.all()) else part.view(shape).to(device)
            for part, shape in zip(parts, shapes, strict=True)
        )
        return cls(token_P.to(device), slot_L.to(device), from_end_L.to(device), shapes, is_token)

    @classmethod
    def single(cls, lengths_B: Tensor, *, num_tokens: int, width: int) -> Self:
        """Put all sequences into one rectangle whose shape does not depend on the lengths.

        It pads more than `of`, and can be traced by torch.export.

        Args:
            lengths_B: Tokens of each sequence; empty sequences take up a row too.
            num_tokens: L, at least 1.
            width: W, at least the longest sequence.
        """
        lengths_B = lengths_B.long()
        starts_B1 = (lengths_B.cumsum(0) - lengths_B).unsqueeze(1)
        # An empty sequence gets a stray token, for attention to nothing would be NaN.
        lengths_B1 = lengths_B.clamp(min=1).unsqueeze(1)
        place_W = torch.arange(width, device=lengths_B.device)
        token_BW = (starts_B1 + place_W.minimum(lengths_B1 - 1)).clamp(max=num_tokens - 1)

        sequence_L, place_L = places(lengths_B, num_tokens=num_tokens)
        return cls(
            token_P=token_BW.flatten(),
            slot_L=sequence_L * width + place_L,
            from_end_L=lengths_B[sequence_L] - 1 - place_L,
            shapes=((lengths_B.shape[0], width),),
            is_token=(place_W < lengths_B1,),
        )


@dataclass(frozen=True)
class Questions:
    """The tokens whose outputs are wanted, in rectangles that lie beside those of the buckets.

    The last block of an encoder computes nothing but these: the masked tokens of a cloze, or the
    last token of each history where the next item is asked for.

    Attributes:
        token_M: Packed token of each question, in rising order.
        question_P: Question that fills each slot, bucket after bucket.
        slot_M: Slot of each question.
        shapes: Number of sequences, and question slots per sequence, of each bucket.
    """

    token_M: Tensor
    question_P: Tensor
    slot_M: Tensor
    shapes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, token_M: Tensor, *, lengths_B: Tensor, buckets: LengthBuckets) -> Self:
        """Lay out the questions.

        Args:
            token_M: Packed tokens, in rising order; at least one.
            lengths_B: Tokens of each sequence.
            buckets: Made of the same lengths.
        """
        if torch.compiler.is_exporting():
            return cls._one_each(token_M, buckets)
        device, token_M, lengths_B = token_M.device, token_M.cpu(), lengths_B.cpu().long()
        sequence_M = torch.searchsorted(lengths_B.cumsum(0), token_M, right=True)
        counts_B = torch.bincount(sequence_M, minlength=len(lengths_B))
        starts_B = counts_B.cumsum(0) - counts_B
        order_S = lengths_B.argsort(stable=True)
        order_S = order_S[lengths_B[order_S] > 0]
        in_buckets = order_S.split([count for count, _ in buckets.shapes])
        shapes = tuple((len(part), max(int(counts_B[part].max()), 1)) for part in in_buckets)

        widths_S = torch.tensor([width for count, width in shapes for _ in range(count)]).long()
        rank_P, place_P = places(widths_S, num_tokens=int(widths_S.sum()))
        counts_P, starts_P = counts_B[order_S][rank_P], starts_B[order_S][rank_P]
        # A sequence without a question fills its slots with a stray one, which is not read.
        question_P = (starts_P + place_P.minimum(counts_P - 1)).clamp(0, len(token_M) - 1)
        slots_M = (place_P < counts_P).nonzero().squeeze(1)
        slot_M = torch.empty_like(slots_M)
        slot_M[question_P[slots_M]] = slots_M
        return cls(token_M.to(device), question_P.to(device), slot_M.to(device), shapes)

    @classmethod
    def _one_each(cls, token_B: Tensor, buckets: LengthBuckets) -> Self:
        """One question per sequence, in the single bucket of an exported program."""
        ((num_sequences, _),) = buckets.shapes
        number_B = torch.arange(num_sequences, device=token_B.device)
        return cls(token_B, number_B, number_B, ((num_sequences, 1),))


def bucketize(lengths_B: Tensor, *, num_tokens: int, max_length: int, where: str) -> LengthBuckets:
    """The buckets of a batch; in an exported program a single one, as wide as its longest.

    Args:
        lengths_B: Tokens of each sequence.
        num_tokens: Their sum.
        max_length: Longest sequence that the model has a position for.
        where: Name of the model, for the message.

    Raises:
        RunConfigError: a sequence is longer.
    """
    if torch.compiler.is_exporting():
        width = _exported_width(lengths_B, max_length=max_length)
        return LengthBuckets.single(lengths_B, num_tokens=num_tokens, width=width)
    buckets = LengthBuckets.of(lengths_B)
    longest = max((width for _, width in buckets.shapes), default=0)
    if longest > max_length:
        raise RunConfigError(
            f"{where}.max_length: is shorter than a sequence, got {max_length} for one of "
            f"{longest} tokens; allowed {longest} or more; raise it, or lower the sequence's "
            f"max_length in the feature file (a mask at the end counts as a token)"
        )
    return buckets


def _exported_width(lengths_B: Tensor, *, max_length: int) -> int:
    """Slots of the longest sequence, which a program learns only when it runs; 2 at least.

    Attention to a rectangle of one slot is another operation, so it would have to be known.
    """
    if max_length < 2:
        return max_length
    width = cast(int, lengths_B.max().clamp(min=2).item())  # int() would fix it to one number
    torch._check(width >= 2)
    torch._check(width <= max_length)
    return width


def lay_out(
    lengths_B: Tensor, *, num_tokens: int, wanted_M: Tensor | None, max_length: int, where: str
) -> tuple[LengthBuckets, Questions | None]:
    """The buckets of a batch, and the questions in them where not all tokens ask.

    Args:
        lengths_B: Tokens of each sequence.
        num_tokens: Their sum.
        wanted_M: Packed tokens that ask, in rising order; None: all.
        max_length: Longest sequence that the model has a position for.
        where: Name of the model, for the message.

    Raises:
        RunConfigError: a sequence is longer.
    """
    buckets = bucketize(lengths_B, num_tokens=num_tokens, max_length=max_length, where=where)
    if wanted_M is None:
        return buckets, None
    return buckets, Questions.of(wanted_M, lengths_B=lengths_B, buckets=buckets)


def places(lengths_B: Tensor, *, num_tokens: int) -> tuple[Tensor, Tensor]:
    """For each packed token the number of its sequence, and its place in it from 0."""
    ends_B = lengths_B.cumsum(0)
    token_L = torch.arange(num_tokens, device=lengths_B.device)
    sequence_L = torch.searchsorted(ends_B, token_L, right=True)
    return sequence_L, token_L - (ends_B - lengths_B)[sequence_L]
