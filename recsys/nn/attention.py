"""Self-attention over packed sequences, and the three blocks built from it.

L tokens of all sequences, packed · D width · H heads · E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.nn.sequences import LengthBuckets


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

    def forward(self, queries_LD: Tensor, keys_LD: Tensor, buckets: LengthBuckets) -> Tensor:
        """Attend from the tokens of the first argument to those of the second."""
        query_LI, key_value_LI = self.query(queries_LD), self.key_value(keys_LD)
        dropout = self.shape.attention_dropout if self.training else 0.0
        attended = [
            F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=None if self.shape.causal or mask is None else mask[:, None, None, :],
                is_causal=self.shape.causal,
                dropout_p=dropout,
            )
            .transpose(1, 2)
            .flatten(2)
            .flatten(0, 1)
            for (query,), (key, value), mask in zip(
                self._split(query_LI, 1, buckets),
                self._split(key_value_LI, 2, buckets),
                buckets.is_token,
                strict=True,
            )
        ]
        if not attended:  # no token: still reach all parameters, whose gradients DDP waits for
            attended = [query_LI * key_value_LI.chunk(2, dim=1)[1]]
        return self.output(torch.cat(attended).index_select(0, buckets.slot_L))

    def _split(
        self, tokens: Tensor, num_parts: int, buckets: LengthBuckets
    ) -> list[tuple[Tensor, ...]]:
        """Per bucket, each part (query, or key and value) as (sequences, heads, slots, E)."""
        slots = tokens.index_select(0, buckets.token_P)
        areas = [count * width for count, width in buckets.shapes]
        return [
            bucket.view(count, width, num_parts, self.shape.num_heads, self.shape.head_width)
            .permute(2, 0, 3, 1, 4)
            .unbind()
            for bucket, (count, width) in zip(slots.split(areas), buckets.shapes, strict=True)
        ]


class FeedForward(nn.Module):
    """Linear, activation, dropout (if asked), Linear, for each token alone.

    Args:
        shape: Sizes and dropout rates.
        activation: Between the two layers.
        inner_dropout: Whether the hidden layer is dropped out too.
    """

    def __init__(self, shape: BlockShape, *, activation: nn.Module, inner_dropout: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(shape.width, shape.hidden_width)
        self.activation = activation
        self.dropout = nn.Dropout(shape.dropout if inner_dropout else 0.0)
        self.output = nn.Linear(shape.hidden_width, shape.width)

    def forward(self, tokens_LD: Tensor) -> Tensor:
        """Give a vector per token."""
        return self.output(self.dropout(self.activation(self.hidden(tokens_LD))))


class PostNormBlock(nn.Module):
    """BERT's block: each sublayer is dropped out, added to its input, and normalised.

    Args:
        shape: Sizes and dropout rates.

    Source: Sun et al., BERT4Rec (2019), https://arxiv.org/abs/1904.06690, section 3.3.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.attention_norm = nn.LayerNorm(shape.width)
        self.feed_forward = FeedForward(shape, activation=nn.GELU(), inner_dropout=False)
        self.feed_forward_norm = nn.LayerNorm(shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, tokens_LD: Tensor, buckets: LengthBuckets) -> Tensor:
        """Give a vector per token."""
        attended_LD = self.dropout(self.attention(tokens_LD, tokens_LD, buckets))
        tokens_LD = self.attention_norm(tokens_LD + attended_LD)
        return self.feed_forward_norm(tokens_LD + self.dropout(self.feed_forward(tokens_LD)))


class PreNormBlock(nn.Module):
    """The block of today's transformers: each sublayer reads a normalised copy of the stream.

    Args:
        shape: Sizes and dropout rates.

    Source: Xiong et al., On Layer Normalization in the Transformer Architecture (2020),
    https://arxiv.org/abs/2002.04745, section 3.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width)
        self.attention = Attention(shape)
        self.feed_forward_norm = nn.LayerNorm(shape.width)
        self.feed_forward = FeedForward(shape, activation=nn.GELU(), inner_dropout=True)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, tokens_LD: Tensor, buckets: LengthBuckets) -> Tensor:
        """Give a vector per token."""
        normed_LD = self.attention_norm(tokens_LD)
        tokens_LD = tokens_LD + self.dropout(self.attention(normed_LD, normed_LD, buckets))
        fed_LD = self.feed_forward(self.feed_forward_norm(tokens_LD))
        return tokens_LD + self.dropout(fed_LD)


class SASRecBlock(nn.Module):
    """SASRec's block as its code has it: only queries are normalised, and residuals start there.

    q = LN(x); y = q + attention(q, keys and values = x); z = LN(y); z + drop(W drop(relu(W z))).

    Args:
        shape: Sizes and dropout rates.

    Source: Kang and McAuley, SASRec (2018), https://arxiv.org/abs/1808.09781, section III.

    Differs from the paper: it follows the authors' code, where the paper normalises the keys and
    values too and adds the sublayer's input before normalisation.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width)
        self.attention = Attention(shape)
        self.feed_forward_norm = nn.LayerNorm(shape.width)
        self.feed_forward = FeedForward(shape, activation=nn.ReLU(), inner_dropout=True)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, tokens_LD: Tensor, buckets: LengthBuckets) -> Tensor:
        """Give a vector per token."""
        queries_LD = self.attention_norm(tokens_LD)
        attended_LD = queries_LD + self.attention(queries_LD, tokens_LD, buckets)
        normed_LD = self.feed_forward_norm(attended_LD)
        return normed_LD + self.dropout(self.feed_forward(normed_LD))
