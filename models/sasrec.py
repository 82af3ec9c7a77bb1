"""SASRec: causal self-attention over the history predicts the next item at every position."""

from __future__ import annotations

from models.transformer import BlockName, Positions, SequenceTransformer
from recsys.losses import FullSoftmax
from recsys.types import FieldLayout


class SASRec(SequenceTransformer):
    """Item and position vectors, causal blocks, layer norm; a score is a dot product with an item.

    It trains with the softmax over the whole catalogue, which is what makes it strong (Klenitskiy
    and Vasilev); the paper's own loss is `loss: BinaryCrossEntropy` in the run file.

    Args:
        layout: Widths of the inputs and the size of the catalogue.
        block: `sasrec`: as published; `pre_norm`: today's standard block.
        positions: `learned` vectors; `rotary`: attention sees distances; `none`.
        time_gaps: Whether to add vectors for the seconds since the event before, and until the
            moment for which a prediction is asked; the sequence needs `times`.
        max_length: Longest history; null for that of the feature file.
        num_blocks: Number of blocks.
        num_heads: Attention heads per block.
        head_width: Width of a head; null for the item width divided by the heads.
        hidden_width: Width of the feed-forward layers; null for the item width.
        dropout: Share of embeddings and activations set to zero.
        attention_dropout: Share of attention weights set to zero; other than 0 it is slower.
        scale_items: Whether item vectors are multiplied by the square root of their width.

    Source: Kang and McAuley, SASRec (2018), https://arxiv.org/abs/1808.09781. Klenitskiy and
    Vasilev (2023), https://arxiv.org/abs/2309.07602.
    """

    def __init__(
        self,
        layout: FieldLayout,
        *,
        block: BlockName = "sasrec",
        positions: Positions = "learned",
        time_gaps: bool = False,
        max_length: int | None = None,
        num_blocks: int = 2,
        num_heads: int = 1,
        head_width: int | None = None,
        hidden_width: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        scale_items: bool = True,
    ) -> None:
        super().__init__(
            layout,
            objective="next",
            loss=FullSoftmax(),
            block=block,
            positions=positions,
            time_gaps=time_gaps,
            max_length=max_length,
            num_blocks=num_blocks,
            num_heads=num_heads,
            head_width=head_width,
            hidden_width=hidden_width,
            dropout=dropout,
            attention_dropout=attention_dropout,
            scale_items=scale_items,
        )
