"""SASRec: causal self-attention over the history predicts the next item at every position."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from recsys.nn.attention import BlockShape, PreNormBlock, SASRecBlock
from recsys.nn.sequences import bucketize
from recsys.nn.settings import SettingsCheck
from recsys.protocols import SequenceEncoder
from recsys.types import FieldLayout, Jagged

Block = Literal["sasrec", "pre_norm"]


class SASRec(SequenceEncoder):
    """Item and position vectors, causal blocks, layer norm; a score is a dot product with an item.

    Positions count from the end of the sequence, as they do in effect in the published code,
    which pads on the left to a fixed length: a position vector means "so many events ago", and
    the last event, from which the prediction is read, always meets the same one.

    Args:
        layout: Widths of the inputs; it has exactly one sequence.
        max_length: Longest history; null for that of the feature file.
        block: `sasrec`: as published; `pre_norm`: today's standard block.
        num_blocks: Number of blocks.
        num_heads: Attention heads per block.
        head_width: Width of a head; null for the item width divided by the heads.
        hidden_width: Width of the feed-forward layers; null for the item width.
        dropout: Share of embeddings and activations set to zero.
        attention_dropout: Share of attention weights set to zero; other than 0 it is slower.
        scale_items: Whether item vectors are multiplied by the square root of their width.

    Source: Kang and McAuley, SASRec (2018), https://arxiv.org/abs/1808.09781. Trained with the
    full cross-entropy: Klenitskiy and Vasilev (2023), https://arxiv.org/abs/2309.07602.
    """

    objective = "next"
    item_bias_V = None

    def __init__(
        self,
        layout: FieldLayout,
        *,
        max_length: int | None = None,
        block: Block = "sasrec",
        num_blocks: int = 2,
        num_heads: int = 1,
        head_width: int | None = None,
        hidden_width: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        scale_items: bool = True,
    ) -> None:
        super().__init__()
        if max_length is None:
            max_length = max(layout.max_lengths.values(), default=0)
        (
            SettingsCheck("SASRec")
            .encoder_layout(layout, num_heads=num_heads, head_width=head_width)
            .at_least("max_length", max_length, 1)
            .one_of("block", block, get_args(Block))
            .at_least("num_blocks", num_blocks, 1)
            .at_least("hidden_width", hidden_width, 1)
            .dropout("dropout", dropout)
            .dropout("attention_dropout", attention_dropout)
            .done()
        )
        (width,) = layout.sequences.values()
        shape = BlockShape(
            width=width,
            num_heads=num_heads,
            head_width=head_width or width // num_heads,
            hidden_width=hidden_width or width,
            dropout=dropout,
            attention_dropout=attention_dropout,
            causal=True,
        )
        block_class = SASRecBlock if block == "sasrec" else PreNormBlock
        self.item_scale = width**0.5 if scale_items else 1.0
        self.positions = nn.Embedding(max_length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(block_class(shape) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(width)
        self.apply(_initialize)

    def forward(self, items: Jagged) -> Tensor:
        """Give hidden_LD: what each position predicts to come next."""
        buckets = bucketize(items, max_length=self.positions.num_embeddings, where="SASRec")
        positions_LD = self.positions(buckets.from_end_L)
        hidden_LD = self.dropout(items.values_LD * self.item_scale + positions_LD)
        for block in self.blocks:
            hidden_LD = block(hidden_LD, buckets)
        return self.norm(hidden_LD)


def _initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02), as Klenitskiy and Vasilev's code has it; biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
