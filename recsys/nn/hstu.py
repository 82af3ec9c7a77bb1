"""HSTU's block: pointwise attention with relative time and position, gated by its own input.

L tokens of all histories, packed · M tokens that ask · D width · H heads · E width of a head ·
I width of all heads · S histories of one bucket · Q and W slots of one history, that ask and that
are asked.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.nn.blocks import asking
from recsys.nn.dropout import Dropout
from recsys.nn.gaps import NUM_GAPS, gap_steps
from recsys.nn.initial import STD
from recsys.nn.segments import Segment, gives, label
from recsys.nn.sequences import LengthBuckets, Questions


class Distances:
    """How far apart, in time and in events, each pair of tokens of a history is.

    Made once per batch and shared by all blocks.

    Args:
        buckets: Where the tokens lie.
        questions: Which tokens ask, the last ones of their histories; None: all.
        times_L: Second of each token's event; None where times are not known.
        asked_at_L: Second for which each token's prediction is made.

    Attributes:
        gaps: Per bucket (S, Q, W): number of the step that the seconds between the event asked
            for and an earlier event fall into; None where times are not known.
        events: Per bucket (S or 1, Q, W): events between the token that asks and the other.
        seen: Per bucket (S or 1, Q, W): 1 where a token may be seen, else 0.
    """

    def __init__(
        self,
        buckets: LengthBuckets,
        questions: Questions | None,
        *,
        times_L: Tensor | None,
        asked_at_L: Tensor | None,
    ) -> None:
        self.gaps: list[Tensor | None] = [None] * len(buckets.shapes)
        if times_L is not None and asked_at_L is not None:
            times = _rectangles(times_L[buckets.token_P], buckets.shapes)
            asked_P, shapes = asked_at_L[buckets.token_P], buckets.shapes
            if questions is not None:
                asked_P = asked_at_L[questions.token_M][questions.question_P]
                shapes = questions.shapes
            self.gaps = [
                gap_steps(asked_SQ.unsqueeze(2) - times_SW.unsqueeze(1))
                for asked_SQ, times_SW in zip(_rectangles(asked_P, shapes), times, strict=True)
            ]
        self.events, self.seen = [], []
        if questions is None:
            for _, width in buckets.shapes:
                place_W = torch.arange(width, device=buckets.token_P.device)
                events_1WW = (place_W.unsqueeze(1) - place_W).unsqueeze(0)
                self.events.append(events_1WW.clamp(min=0))
                self.seen.append((events_1WW >= 0).float())
            return
        from_end = _rectangles(buckets.from_end_L[buckets.token_P], buckets.shapes)
        for from_end_SW, is_token_SW, (_, width) in zip(
            from_end, buckets.is_token, questions.shapes, strict=True
        ):
            seen_SW = torch.ones_like(from_end_SW) if is_token_SW is None else is_token_SW
            self.events.append(from_end_SW.unsqueeze(1).expand(-1, width, -1))
            self.seen.append(seen_SW.unsqueeze(1).float())


class HSTUBlock(nn.Module):
    """x + W (LN(attention(q, k, v)) * u), where u, v, q, k = silu(linear(LN(x))).

    A weight is silu(q·k + bias) / n, without a softmax: it may be any number, so that a history's
    strength is kept. The bias is learned for steps of time and for numbers of events, and shared
    by the heads. Time is measured to the event that is asked for.

    Args:
        width: D.
        num_heads: H.
        head_width: E, of queries, keys, values and gates.
        max_length: Longest history, n.
        dropout: Share of activations set to zero.

    Source: Zhai et al., HSTU (2024), https://arxiv.org/abs/2402.17152, equations 2 to 4; the steps
    of time are those of its public code.
    """

    def __init__(
        self, *, width: int, num_heads: int, head_width: int, max_length: int, dropout: float
    ) -> None:
        super().__init__()
        inner_width = num_heads * head_width
        self.num_heads = num_heads
        self.max_length = max_length
        self.input_norm = nn.LayerNorm(width)
        self.gate_query = nn.Linear(width, 2 * inner_width, bias=False)
        self.key_value = nn.Linear(width, 2 * inner_width, bias=False)
        self.gap_bias = nn.Parameter(nn.init.normal_(torch.empty(NUM_GAPS + 1), std=STD))
        self.event_bias = nn.Parameter(nn.init.normal_(torch.empty(max_length), std=STD))
        label(self, "event_bias", gives([Segment(("@position",), max_length)]))
        self.attended_norm = nn.LayerNorm(inner_width)
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(inner_width, width)

    def forward(
        self,
        tokens_LD: Tensor,
        buckets: LengthBuckets,
        distances: Distances,
        questions: Questions | None = None,
    ) -> Tensor:
        """Give a vector per token, or per question."""
        normed_LD = self.input_norm(tokens_LD)
        gate_query_MI = F.silu(self.gate_query(asking(normed_LD, questions)))
        gate_MI, query_MI = gate_query_MI.chunk(2, dim=1)
        key_value_LI = F.silu(self.key_value(normed_LD)).index_select(0, buckets.token_P)
        if questions is None:
            place_P, slot_M, shapes = buckets.token_P, buckets.slot_L, buckets.shapes
        else:
            place_P, slot_M, shapes = questions.question_P, questions.slot_M, questions.shapes
        queries = _rectangles(query_MI.index_select(0, place_P), shapes)
        attended = [
            self._attend(query_SQI, key_value_SWI, gaps_SQW, events_SQW, seen_SQW)
            for query_SQI, key_value_SWI, gaps_SQW, events_SQW, seen_SQW in zip(
                queries,
                _rectangles(key_value_LI, buckets.shapes),
                distances.gaps,
                distances.events,
                distances.seen,
                strict=True,
            )
        ]
        if attended:
            attended_PI = torch.cat(attended)
        else:  # no token: still reach all parameters, whose gradients DDP awaits
            attended_PI = key_value_LI.chunk(2, dim=1)[1] + self.event_bias[0] + self.gap_bias[0]
        attended_MI = self.attended_norm(attended_PI.index_select(0, slot_M))
        return asking(tokens_LD, questions) + self.output(self.dropout(gate_MI * attended_MI))

    def _attend(
        self,
        query_SQI: Tensor,
        key_value_SWI: Tensor,
        gaps_SQW: Tensor | None,
        events_SQW: Tensor,
        seen_SQW: Tensor,
    ) -> Tensor:
        """What the tokens of one bucket gather, packed by slot."""
        key_SWI, value_SWI = key_value_SWI.chunk(2, dim=2)
        if gaps_SQW is None:  # DDP awaits a gradient here, too
            gap_bias_SQW = 0.0 * self.gap_bias[0]
        else:
            gap_bias_SQW = self.gap_bias.index_select(0, gaps_SQW.flatten()).view_as(gaps_SQW)
        bias_SQW = self.event_bias[events_SQW] + gap_bias_SQW
        logits_SHQW = self._heads(query_SQI) @ self._heads(key_SWI).transpose(2, 3)
        weights_SHQW = F.silu(logits_SHQW + bias_SQW.unsqueeze(1)) * seen_SQW.unsqueeze(1)
        attended_SHQE = (weights_SHQW / self.max_length) @ self._heads(value_SWI)
        return attended_SHQE.transpose(1, 2).flatten(2).flatten(0, 1)

    def _heads(self, slots_SWI: Tensor) -> Tensor:
        return slots_SWI.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def _rectangles(slots_P: Tensor, shapes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Per bucket, its slots as (histories, slots, ...)."""
    parts = slots_P.split([count * width for count, width in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]
