"""HSTU: gated pointwise attention that knows when things happened."""

from __future__ import annotations

from torch import Tensor, nn

from recsys.losses import SampledSoftmax
from recsys.nn.dropout import Dropout
from recsys.nn.hstu import Distances, HSTUBlock
from recsys.nn.initial import initialize
from recsys.nn.segments import Segment, gives, label
from recsys.nn.sequences import lay_out
from recsys.nn.settings import SettingsCheck
from recsys.nn.sides import SideProjections
from recsys.protocols import SequenceEncoder
from recsys.types import FieldLayout, History


class HSTU(SequenceEncoder):
    """Item, side and position vectors, HSTU blocks, layer norm; trained with sampled softmax.

    With `times` in the feature file's sequence, attention knows the seconds between every earlier
    event and the moment for which a prediction is asked; without, only the order of events.

    Args:
        layout: Widths of the inputs and the size of the catalogue.
        max_length: Longest history; null for that of the feature file.
        num_blocks: Number of blocks.
        num_heads: Attention heads per block.
        head_width: Width of a head; null for the item width divided by the heads.
        dropout: Share of embeddings and activations set to zero.
        scale_items: Whether item vectors are multiplied by the square root of their width.

    Source: Zhai et al., Actions Speak Louder than Words (2024), https://arxiv.org/abs/2402.17152,
    section 3.

    Differs from the public code: the output is layer-normed, where that scores by cosines divided
    by a temperature.
    """

    objective = "next"
    item_bias_V = None

    def __init__(
        self,
        layout: FieldLayout,
        *,
        max_length: int | None = None,
        num_blocks: int = 2,
        num_heads: int = 1,
        head_width: int | None = None,
        dropout: float = 0.2,
        scale_items: bool = True,
    ) -> None:
        super().__init__()
        self.max_length = max_length or max(layout.max_lengths.values(), default=0)
        (
            SettingsCheck("HSTU")
            .encoder_layout(layout, num_heads=num_heads, head_width=head_width)
            .at_least("max_length", max_length, 1)
            .at_least("num_blocks", num_blocks, 1)
            .dropout("dropout", dropout)
            .done()
        )
        item, *sides = layout.sequences
        width = layout.sequences[item]
        self.loss = SampledSoftmax(num_negatives=256)
        self.item_scale = width**0.5 if scale_items else 1.0
        self.sides = SideProjections(sides, layout, width=width)
        self.positions = nn.Embedding(self.max_length, width)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            HSTUBlock(
                width=width,
                num_heads=num_heads,
                head_width=head_width or width // num_heads,
                max_length=self.max_length,
                dropout=dropout,
            )
            for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.apply(initialize)
        label(self.positions, "weight", gives([Segment(("@position",), self.max_length)]), None)

    def forward(self, history: History, wanted_M: Tensor | None = None) -> Tensor:
        """Give hidden_MD: what each wanted token predicts."""
        buckets, questions = lay_out(
            history.lengths_B,
            num_tokens=history.items_LD.shape[0],
            wanted_M=wanted_M,
            max_length=self.max_length,
            where="HSTU",
        )
        hidden_LD = history.items_LD * self.item_scale + self.positions(buckets.from_end_L)
        hidden_LD = self.dropout(self.sides(hidden_LD, history.sides))
        times = {"times_L": history.times_L, "asked_at_L": history.asked_at_L}
        everywhere = Distances(buckets, None, **times)
        at_last = everywhere if questions is None else Distances(buckets, questions, **times)
        *earlier, last = self.blocks
        for block in earlier:
            hidden_LD = block(hidden_LD, buckets, everywhere)
        return self.norm(last(hidden_LD, buckets, at_last, questions))
