"""BERT4Rec: attention to both sides of the history fills in masked items."""

from __future__ import annotations

from models.transformer import BlockName, Positions, SequenceTransformer, item_width
from recsys.losses import FullSoftmax
from recsys.types import FieldLayout


class BERT4Rec(SequenceTransformer):
    """Item and position vectors, post-norm blocks, and a head with a bias per item.

    At test a mask is put behind the history and its prediction is read.

    Args:
        layout: Widths of the inputs and the size of the catalogue.
        block: `post_norm`: as published; `pre_norm` learns faster in deep models.
        positions: `learned` vectors; `rotary`: attention sees distances; `none`.
        time_gaps: Whether to add vectors for the seconds since the event before, and until the
            moment for which a prediction is asked; the sequence needs `times`.
        max_length: Longest history, a mask at its end included; null for that of the feature file.
        num_blocks: Number of blocks.
        num_heads: Attention heads per block.
        head_width: Width of a head; null for the item width divided by the heads.
        hidden_width: Width of the feed-forward layers; null for four times the item width.
        dropout: Share of embeddings and activations set to zero.
        attention_dropout: Share of attention weights set to zero; other than 0 it is slower.
        scale_items: Whether item vectors are multiplied by the square root of their width.

    Source: Sun et al., BERT4Rec (2019), https://arxiv.org/abs/1904.06690, section 3.
    """

    def __init__(
        self,
        layout: FieldLayout,
        *,
        block: BlockName = "post_norm",
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
        super().__init__(
            layout,
            objective="cloze",
            head="dense",
            loss=FullSoftmax(),
            block=block,
            positions=positions,
            time_gaps=time_gaps,
            max_length=max_length,
            num_blocks=num_blocks,
            num_heads=num_heads,
            head_width=head_width,
            hidden_width=4 * item_width(layout) if hidden_width is None else hidden_width,
            dropout=dropout,
            attention_dropout=attention_dropout,
            scale_items=scale_items,
        )
