"""The family of sequence models: a transformer over a user's history, with its switches.

SASRec, BERT4Rec, gSASRec and eSASRec are settings of it; each has a file of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from recsys.losses import FullSoftmax
from recsys.nn.attention import BlockShape
from recsys.nn.blocks import Block, LiGRBlock, PostNormBlock, PreNormBlock, SASRecBlock
from recsys.nn.dropout import Dropout
from recsys.nn.gaps import GapEmbedding
from recsys.nn.initial import STD, initialize
from recsys.nn.segments import ITEMS, Segment, gives, label
from recsys.nn.sequences import lay_out
from recsys.nn.settings import SettingsCheck
from recsys.nn.sides import SideProjections
from recsys.protocols import Objective, SequenceEncoder, SequenceLoss
from recsys.types import FieldLayout, History

BlockName = Literal["post_norm", "sasrec", "pre_norm", "ligr"]
Head = Literal["identity", "dense"]
Positions = Literal["learned", "rotary", "none"]

_BLOCKS: dict[BlockName, type[Block]] = {
    "post_norm": PostNormBlock,
    "sasrec": SASRecBlock,
    "pre_norm": PreNormBlock,
    "ligr": LiGRBlock,
}


class SequenceTransformer(SequenceEncoder):
    """Item, side and position vectors, transformer blocks, and a head.

    Learned positions count from the end of the history, as they do in effect in code that pads on
    the left to a fixed length: a position vector means "so many events ago", and the last event,
    from which the prediction is read, always meets the same one.

    The other columns of the sequence (genres, time gaps, ...) are brought to the items' width by
    a linear layer each and added to the item vectors. They are hidden where the item is masked.

    Args:
        layout: Widths of the inputs and the size of the catalogue.
        objective: `next`: attention looks back, every position predicts the next item; `cloze`:
            attention looks both ways, masked items are predicted.
        loss: What it is trained with; null for the softmax over the whole catalogue.
        block: Where a block normalises and gates: BERT's, SASRec's, today's, or LiGR's.
        head: `identity`: the hidden vector is compared with items; `dense`: LN(GELU(W h + b)) is,
            and every item has a bias, as in BERT.
        positions: `learned` vectors; `rotary`: attention sees distances; `none`.
        time_gaps: Whether to add vectors for the seconds since the event before, and until the
            moment for which a prediction is asked; the sequence needs `times`.
        max_length: Longest history, a mask at its end included; null for that of the feature file.
        num_blocks: Number of blocks.
        num_heads: Attention heads per block.
        head_width: Width of a head; null for the item width divided by the heads. A wider one
            lifts the low-rank bottleneck of narrow models.
        hidden_width: Width of the feed-forward layers; null for the item width.
        dropout: Share of embeddings and activations set to zero.
        attention_dropout: Share of attention weights set to zero; other than 0 it is slower.
        scale_items: Whether item vectors are multiplied by the square root of their width.

    Source: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762. Head width: Bhojanapalli et
    al. (2020), https://arxiv.org/abs/2002.07028.
    """

    def __init__(
        self,
        layout: FieldLayout,
        *,
        objective: Objective = "next",
        loss: SequenceLoss | None = None,
        block: BlockName = "pre_norm",
        head: Head = "identity",
        positions: Positions = "learned",
        time_gaps: bool = False,
        max_length: int | None = None,
        num_blocks: int = 2,
        num_heads: int = 2,
        head_width: int | None = None,
        hidden_width: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        scale_items: bool = False,
    ) -> None:
        super().__init__()
        self.max_length = max_length or max(layout.max_lengths.values(), default=0)
        (
            SettingsCheck(type(self).__name__)
            .encoder_layout(
                layout,
                num_heads=num_heads,
                head_width=head_width,
                rotary=positions == "rotary",
            )
            .one_of("objective", objective, get_args(Objective))
            .one_of("block", block, get_args(BlockName))
            .one_of("head", head, get_args(Head))
            .one_of("positions", positions, get_args(Positions))
            .holds(
                layout.has_times or not time_gaps,
                "time_gaps: needs the times of events, got none; add `times: COLUMN` to the "
                "sequence in the feature file",
            )
            .at_least("max_length", max_length, 1)
            .at_least("num_blocks", num_blocks, 1)
            .at_least("hidden_width", hidden_width, 1)
            .dropout("dropout", dropout)
            .dropout("attention_dropout", attention_dropout)
            .done()
        )
        sides = [*layout.sequences][1:]
        width = item_width(layout)
        shape = BlockShape(
            width=width,
            num_heads=num_heads,
            head_width=head_width or width // num_heads,
            hidden_width=width if hidden_width is None else hidden_width,
            dropout=dropout,
            attention_dropout=attention_dropout,
            causal=objective == "next",
            rotary=positions == "rotary",
        )
        self.objective = objective
        self.loss = loss or FullSoftmax()
        self.item_scale = width**0.5 if scale_items else 1.0
        self.sides = SideProjections(sides, layout, width=width)
        self.gaps = GapEmbedding(width) if time_gaps else None
        self.positions = nn.Embedding(self.max_length, width) if positions == "learned" else None
        self.input_norm = nn.LayerNorm(width) if block == "post_norm" else nn.Identity()
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(_BLOCKS[block](shape) for _ in range(num_blocks))
        self.output_norm = nn.Identity() if block == "post_norm" else nn.LayerNorm(width)
        self.projection, self.item_bias_V, self.mask_D = None, None, None
        if head == "dense":
            self.projection = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
            self.item_bias_V = nn.Parameter(torch.zeros(layout.num_items))
        if objective == "cloze":
            self.mask_D = nn.Parameter(nn.init.normal_(torch.empty(width), std=STD))
        self.apply(initialize)
        if self.positions is not None:
            label(self.positions, "weight", gives([Segment(("@position",), self.max_length)]), None)
        if self.item_bias_V is not None:
            label(self, "item_bias_V", gives([Segment((ITEMS,), layout.num_items)]))

    def forward(self, history: History, wanted_M: Tensor | None = None) -> Tensor:
        """Give hidden_MD: what each wanted token predicts."""
        buckets, questions = lay_out(
            history.lengths_B,
            num_tokens=history.items_LD.shape[0],
            wanted_M=wanted_M,
            max_length=self.max_length,
            where=type(self).__name__,
        )
        hidden_LD = self.sides(history.items_LD * self.item_scale, history.sides)
        if self.gaps is not None:
            hidden_LD = hidden_LD + self.gaps(history)
        if self.positions is not None:
            hidden_LD = hidden_LD + self.positions(buckets.from_end_L)
        hidden_LD = self.dropout(self.input_norm(hidden_LD))
        *earlier, last = self.blocks
        for block in earlier:
            hidden_LD = block(hidden_LD, buckets)
        return self.output_norm(last(hidden_LD, buckets, questions))

    def mask(self, history: History, masked_L: Tensor) -> History:
        """Put the mask vector in place of the items, and zeros in place of what tells of them."""
        if self.mask_D is None:
            return super().mask(history, masked_L)
        masked_L1 = masked_L.unsqueeze(1)
        return replace(
            history,
            items_LD=torch.where(masked_L1, self.mask_D, history.items_LD),
            sides={key: side.masked_fill(masked_L1, 0.0) for key, side in history.sides.items()},
        )

    def head(self, hidden_MD: Tensor) -> Tensor:
        """The hidden vector, or LN(GELU(W h + b))."""
        return hidden_MD if self.projection is None else self.projection(hidden_MD)


def item_width(layout: FieldLayout) -> int:
    """Width of items, which are the first column of the sequence; 1 where there is none."""
    return next(iter(layout.sequences.values()), 1)
