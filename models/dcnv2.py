"""DCN V2: explicit crosses of all fields and a perceptron."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from recsys.nn.interactions import CrossNetwork
from recsys.nn.mlp import MLP
from recsys.nn.segments import gives, input_segments, label_linear, label_segments, reads
from recsys.nn.settings import SettingsCheck
from recsys.protocols import Ranker
from recsys.types import Embedded, FieldLayout

Structure = Literal["stacked", "parallel"]


class DCNv2(Ranker):
    """Cross network and perceptron over all fields and dense features side by side.

    Fields may differ in width.

    Args:
        layout: Widths of the inputs and names of the labels.
        structure: `stacked`: the perceptron reads what the crosses give; `parallel`: both read
            the input and the logit reads both.
        num_cross_layers: Number of crosses; 0 leaves the perceptron alone.
        mlp: Widths of the perceptron's layers.
        dropout: Share of the perceptron's activations set to zero.
        batch_norm: Whether the perceptron normalises over the batch.
        low_rank: Rank of the cross layers' weight matrices; null for full matrices.

    Source: Wang et al., DCN V2 (2021), https://arxiv.org/abs/2008.13535, section 3.
    """

    def __init__(
        self,
        layout: FieldLayout,
        *,
        structure: Structure = "stacked",
        num_cross_layers: int = 3,
        mlp: tuple[int, ...] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        low_rank: int | None = None,
    ) -> None:
        super().__init__()
        (
            SettingsCheck("DCNv2")
            .ranker_layout(layout)
            .one_of("structure", structure, get_args(Structure))
            .at_least("num_cross_layers", num_cross_layers, 0)
            .widths("mlp", mlp, min_layers=1 if structure == "parallel" else 0)
            .dropout("dropout", dropout)
            .at_least("low_rank", low_rank, 1)
            .done()
        )
        width = layout.width
        self.structure = structure
        self.cross = CrossNetwork(width, num_layers=num_cross_layers, low_rank=low_rank)
        self.mlp = MLP(width, widths=mlp, dropout=dropout, batch_norm=batch_norm)
        head_width = self.mlp.out_width + (width if structure == "parallel" else 0)
        self.head = nn.Linear(head_width, len(layout.labels))
        self._label(layout)

    def forward(self, embedded: Embedded) -> Tensor:
        """Give logits_BT."""
        inputs_BC = embedded.concatenated_BC()
        crossed_BC = self.cross(inputs_BC)
        if self.structure == "stacked":
            return self.head(self.mlp(crossed_BC))
        return self.head(torch.cat([crossed_BC, self.mlp(inputs_BC)], dim=1))

    def _label(self, layout: FieldLayout) -> None:
        """Say what the layers' inputs are made of."""
        inputs = input_segments(layout)
        self.cross.label_inputs(inputs)
        read = self.mlp.label_inputs(inputs)
        if self.structure == "parallel":
            read = (*inputs, *read)
        label_linear(self.head, reads=reads(read), gives=gives(label_segments(layout)))
