"""BERT4Rec: attention to both sides of the history fills in masked items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.nn.attention import BlockShape, PostNormBlock
from recsys.nn.sequences import bucketize
from recsys.nn.settings import SettingsCheck
from recsys.protocols import SequenceEncoder
from recsys.types import FieldLayout, Jagged


class BERT4Rec(SequenceEncoder):
    """Item and position vectors, post-norm blocks, and a head with a bias per item.

    At test a mask is put behind the history and its prediction is read. Positions count from the
    end of the sequence, as they do in effect in the published code, which pads on the left to a
    fixed length.

    Args:
        layout: Widths of the inputs and the size of the catalogue; it has exactly one sequence.
        max_length: Longest sequence, a mask at its end included; null for that of the feature
            file.
        num_blocks: Number of blocks.
        num_heads: Attention heads per block.
        head_width: Width of a head; null for the item width divided by the heads.
        hidden_width: Width of the feed-forward layers; null for four times the item width.
        dropout: Share of embeddings and activations set to zero.
        attention_dropout: Share of attention weights set to zero; other than 0 it is slower.

    Source: Sun et al., BERT4Rec (2019), https://arxiv.org/abs/1904.06690, section 3.
    """

    objective = "cloze"

    def __init__(
        self,
        layout: FieldLayout,
        *,
        max_length: int | None = None,
        num_blocks: int = 2,
        num_heads: int = 2,
        head_width: int | None = None,
        hidden_width: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if max_length is None:
            max_length = max(layout.max_lengths.values(), default=0)
        (
            SettingsCheck("BERT4Rec")
            .encoder_layout(layout, num_heads=num_heads, head_width=head_width)
            .holds(
                layout.num_items >= 2,
                f"layout: needs an item catalogue, got {layout.num_items} items; "
                f"name the item feature under `entity` in the feature file",
            )
            .at_least("max_length", max_length, 1)
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
            hidden_width=hidden_width or 4 * width,
            dropout=dropout,
            attention_dropout=attention_dropout,
            causal=False,
        )
        self.mask_D = nn.Parameter(torch.empty(width))
        self.positions = nn.Embedding(max_length, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(PostNormBlock(shape) for _ in range(num_blocks))
        self.projection = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.item_bias_V = nn.Parameter(torch.zeros(layout.num_items))
        nn.init.trunc_normal_(self.mask_D, std=0.02)
        self.apply(_initialize)

    def forward(self, items: Jagged) -> Tensor:
        """Give hidden_LD, of which the head makes predictions."""
        buckets = bucketize(items, max_length=self.positions.num_embeddings, where="BERT4Rec")
        positions_LD = self.positions(buckets.from_end_L)
        hidden_LD = self.dropout(self.norm(items.values_LD + positions_LD))
        for block in self.blocks:
            hidden_LD = block(hidden_LD, buckets)
        return hidden_LD

    def mask(self, items: Jagged, masked_L: Tensor) -> Jagged:
        """Put the mask vector where `masked_L` is true."""
        values_LD = torch.where(masked_L.unsqueeze(1), self.mask_D, items.values_LD)
        return Jagged(values_LD, items.lengths_B)

    def head(self, hidden_MD: Tensor) -> Tensor:
        """LN(GELU(W h + b))."""
        return self.projection(hidden_MD)


def _initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02) cut off at ±0.04, as BERT's code has it; biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
