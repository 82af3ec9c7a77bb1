"""Self-attention over packed sequences.

L tokens of all sequences, packed · M tokens that ask · D width · H heads · E width of a head ·
I width of all heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.nn.sequences import LengthBuckets, Questions


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """Sizes and dropout rates of a transformer block."""

    width: int
    """D, of the tokens."""
    num_heads: int
    """H."""
    head_width: int
    """E; it need not be D / H."""
    hidden_width: int
    """Width of the feed-forward layer."""
    dropout: float
    """Share of activations set to zero."""
    attention_dropout: float
    """Share of attention weights set to zero."""
    causal: bool
    """Whether a token sees only itself and earlier ones, or all of its sequence."""
    rotary: bool = False
    """Whether attention turns queries and keys by their positions, so that it sees distances."""


class Attention(nn.Module):
    """Multi-head attention of each token to the tokens of its own sequence.

    Padding lies on the right of each bucket. Causal attention never reaches it from a token, so
    it needs no mask; attention to both sides masks it where lengths differ.

    Args:
        shape: Sizes and dropout rates.

    Source: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762, section 3.2. Heads of any
    width: Bhojanapalli et al. (2020), https://arxiv.org/abs/2002.07028.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        inner_width = shape.num_heads * shape.head_width
        self.shape = shape
        self.query = nn.Linear(shape.width, inner_width)
        self.key_value = nn.Linear(shape.width, 2 * inner_width)
        self.output = nn.Linear(inner_width, shape.width)

    def forward(
        self,
        queries_MD: Tensor,
        keys_LD: Tensor,
        buckets: LengthBuckets,
        questions: Questions | None = None,
    ) -> Tensor:
        """Attend from the first tokens to the second.

        Args:
            queries_MD: Of every token, or of the questions alone.
            keys_LD: Of every token.
            buckets: Where the tokens lie.
            questions: Which tokens ask, where not all do; in causal attention they must be the
                last of their sequences.
        """
        query_MI, key_value_LI = self.query(queries_MD), self.key_value(keys_LD)
        if self.shape.rotary:
            query_MI, key_value_LI = self._turned(query_MI, key_value_LI, buckets, questions)
        if not buckets.shapes:  # no token: still reach all parameters, whose gradients DDP awaits
            return self.output(query_MI * key_value_LI.chunk(2, dim=1)[1])
        if questions is None:
            queries = self._split(query_MI.index_select(0, buckets.token_P), 1, buckets.shapes)
            slot_M = buckets.slot_L
        else:
            queries = self._split(
                query_MI.index_select(0, questions.question_P), 1, questions.shapes
            )
            slot_M = questions.slot_M
        is_causal = self.shape.causal and questions is None
        dropout = self.shape.attention_dropout if self.training else 0.0
        attended = [
            F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=None if is_causal or mask is None else mask[:, None, None, :],
                is_causal=is_causal,
                dropout_p=dropout,
            )
            .transpose(1, 2)
            .flatten(2)
            .flatten(0, 1)
            for (query,), (key, value), mask in zip(
                queries,
                self._split(key_value_LI.index_select(0, buckets.token_P), 2, buckets.shapes),
                buckets.is_token,
                strict=True,
            )
        ]
        return self.output(torch.cat(attended).index_select(0, slot_M))

    def _split(
        self, slots: Tensor, num_parts: int, shapes: tuple[tuple[int, int], ...]
    ) -> list[tuple[Tensor, ...]]:
        """Per bucket, each part (query, or key and value) as (sequences, heads, slots, E)."""
        return [
            bucket.view(count, width, num_parts, self.shape.num_heads, self.shape.head_width)
            .permute(2, 0, 3, 1, 4)
            .unbind()
            for bucket, (count, width) in zip(
                slots.split([count * width for count, width in shapes]), shapes, strict=True
            )
        ]

    def _turned(
        self,
        query_MI: Tensor,
        key_value_LI: Tensor,
        buckets: LengthBuckets,
        questions: Questions | None,
    ) -> tuple[Tensor, Tensor]:
        key_LI, value_LI = key_value_LI.chunk(2, dim=1)
        turn_LE = rotation(buckets.from_end_L, self.shape.head_width, dtype=key_LI.dtype)
        turn_ME = turn_LE if questions is None else turn_LE[questions.token_M]
        return rotate(query_MI, turn_ME), torch.cat([rotate(key_LI, turn_LE), value_LI], dim=1)


def rotation(positions_L: Tensor, width: int, *, dtype: torch.dtype) -> Tensor:
    """Cosines and sines (L, width) by which the pairs of a head are turned at each position.

    Source: Su et al., RoFormer (2021), https://arxiv.org/abs/2104.09864, section 3.4.2. Positions
    here count from the end, which turns the other way; only differences matter.
    """
    place_E = torch.arange(width // 2, device=positions_L.device, dtype=torch.float32)
    angle_LE = positions_L.unsqueeze(1) * torch.pow(10_000.0, -2.0 * place_E / width)
    return torch.cat([angle_LE.cos(), angle_LE.sin()], dim=1).to(dtype)


def rotate(tokens_LI: Tensor, turn_LE: Tensor) -> Tensor:
    """Turn each pair of numbers of each head; the pairs are its first and its second half."""
    tokens_LHE = tokens_LI.unflatten(1, (-1, turn_LE.shape[1]))
    cosine, sine = turn_LE.unsqueeze(1).chunk(2, dim=2)
    first, second = tokens_LHE.chunk(2, dim=2)
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return torch.cat(turned, dim=2).flatten(1)
