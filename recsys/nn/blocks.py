"""Transformer blocks: where they normalise, gate and add.

Every block reads all tokens and gives a vector for each of them, or for the questions alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from recsys.nn.attention import Attention, BlockShape
from recsys.nn.dropout import Dropout
from recsys.nn.sequences import LengthBuckets, Questions


class Block(nn.Module, ABC):
    """One layer of a sequence encoder."""

    @abstractmethod
    def forward(
        self, tokens_LD: Tensor, buckets: LengthBuckets, questions: Questions | None = None
    ) -> Tensor:
        """Give a vector per token, or per question where they are given."""


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
        self.dropout = Dropout(shape.dropout if inner_dropout else 0.0)
        self.output = nn.Linear(shape.hidden_width, shape.width)

    def forward(self, tokens_MD: Tensor) -> Tensor:
        """Give a vector per token."""
        return self.output(self.dropout(self.activation(self.hidden(tokens_MD))))


class PostNormBlock(Block):
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
        self.dropout = Dropout(shape.dropout)

    def forward(
        self, tokens_LD: Tensor, buckets: LengthBuckets, questions: Questions | None = None
    ) -> Tensor:
        """Give a vector per token, or per question."""
        tokens_MD = asking(tokens_LD, questions)
        attended_MD = self.attention(tokens_MD, tokens_LD, buckets, questions)
        tokens_MD = self.attention_norm(tokens_MD + self.dropout(attended_MD))
        return self.feed_forward_norm(tokens_MD + self.dropout(self.feed_forward(tokens_MD)))


class PreNormBlock(Block):
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
        self.dropout = Dropout(shape.dropout)

    def forward(
        self, tokens_LD: Tensor, buckets: LengthBuckets, questions: Questions | None = None
    ) -> Tensor:
        """Give a vector per token, or per question."""
        normed_LD = self.attention_norm(tokens_LD)
        attended_MD = self.attention(asking(normed_LD, questions), normed_LD, buckets, questions)
        tokens_MD = asking(tokens_LD, questions) + self.dropout(attended_MD)
        fed_MD = self.feed_forward(self.feed_forward_norm(tokens_MD))
        return tokens_MD + self.dropout(fed_MD)


class SASRecBlock(Block):
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
        self.dropout = Dropout(shape.dropout)

    def forward(
        self, tokens_LD: Tensor, buckets: LengthBuckets, questions: Questions | None = None
    ) -> Tensor:
        """Give a vector per token, or per question."""
        queries_MD = self.attention_norm(asking(tokens_LD, questions))
        attended_MD = queries_MD + self.attention(queries_MD, tokens_LD, buckets, questions)
        normed_MD = self.feed_forward_norm(attended_MD)
        return normed_MD + self.dropout(self.feed_forward(normed_MD))


class LiGRBlock(Block):
    """Pre-norm sublayers behind gates that read the stream itself.

    x + drop(sigmoid(W x) * attention(LN(x))), then the same around a SwiGLU feed-forward layer.

    Args:
        shape: Sizes and dropout rates.

    Source: Borisyuk et al., LiGR (2025), https://arxiv.org/abs/2502.03417; as eSASRec has it:
    Tikhonovich et al. (2025), https://arxiv.org/abs/2508.06450.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width)
        self.attention = Attention(shape)
        self.attention_gate = nn.Linear(shape.width, shape.width)
        self.feed_forward_norm = nn.LayerNorm(shape.width)
        self.feed_forward = SwiGLU(shape)
        self.feed_forward_gate = nn.Linear(shape.width, shape.width)
        self.dropout = Dropout(shape.dropout)

    def forward(
        self, tokens_LD: Tensor, buckets: LengthBuckets, questions: Questions | None = None
    ) -> Tensor:
        """Give a vector per token, or per question."""
        normed_LD, tokens_MD = self.attention_norm(tokens_LD), asking(tokens_LD, questions)
        attended_MD = self.attention(asking(normed_LD, questions), normed_LD, buckets, questions)
        gate_MD = self.attention_gate(tokens_MD).sigmoid()
        tokens_MD = tokens_MD + self.dropout(gate_MD * attended_MD)
        fed_MD = self.feed_forward(self.feed_forward_norm(tokens_MD))
        gate_MD = self.feed_forward_gate(tokens_MD).sigmoid()
        return tokens_MD + self.dropout(gate_MD * fed_MD)


class SwiGLU(nn.Module):
    """W (silu(U x) * V x), for each token alone.

    Args:
        shape: Sizes and dropout rates.

    Source: Shazeer, GLU Variants Improve Transformer (2020), https://arxiv.org/abs/2002.05202.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.hidden_width, bias=False)
        self.hidden = nn.Linear(shape.width, shape.hidden_width, bias=False)
        self.dropout = Dropout(shape.dropout)
        self.output = nn.Linear(shape.hidden_width, shape.width, bias=False)

    def forward(self, tokens_MD: Tensor) -> Tensor:
        """Give a vector per token."""
        return self.output(self.dropout(F.silu(self.gate(tokens_MD)) * self.hidden(tokens_MD)))


def asking(tokens_LD: Tensor, questions: Questions | None) -> Tensor:
    """The vectors of the tokens that ask."""
    return tokens_LD if questions is None else tokens_LD.index_select(0, questions.token_M)
