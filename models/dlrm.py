"""DLRM: pairwise dot products between fields and a vector of all dense features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.nn.interactions import pair_segments, pairwise_dots
from recsys.nn.mlp import MLP
from recsys.nn.segments import (
    Segment,
    dense_segments,
    gives,
    label_linear,
    label_segments,
)
from recsys.nn.settings import SettingsCheck
from recsys.protocols import Ranker
from recsys.types import Embedded, FieldLayout


class DLRM(Ranker):
    """A perceptron turns the dense features into one more vector; another reads all dot products.

    All fields must be of one width, D. Without dense features there is no bottom perceptron,
    and the top one reads the dot products alone.

    Args:
        layout: Widths of the inputs and names of the labels.
        bottom_mlp: Widths of the hidden layers over the dense features; a layer of width D follows.
        top_mlp: Widths of the hidden layers over the dot products.
        dropout: Share of the top perceptron's activations set to zero.
        batch_norm: Whether both perceptrons normalise over the batch.

    Source: Naumov et al., DLRM (2019), https://arxiv.org/abs/1906.00091, section 2.
    """

    def __init__(
        self,
        layout: FieldLayout,
        *,
        bottom_mlp: tuple[int, ...] = (512, 256),
        top_mlp: tuple[int, ...] = (512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        num_vectors = len(layout.fields) + (layout.num_dense > 0)
        (
            SettingsCheck("DLRM")
            .ranker_layout(layout, one_width=True)
            .holds(
                num_vectors >= 2,
                f"layout: dot products need two vectors, got {num_vectors}; "
                f"allowed two fields, or one and a dense feature; add one to the feature file",
            )
            .widths("bottom_mlp", bottom_mlp)
            .widths("top_mlp", top_mlp, min_layers=1)
            .dropout("dropout", dropout)
            .done()
        )
        width = layout.common_width("DLRM")
        num_dots = num_vectors * (num_vectors - 1) // 2
        self.bottom = (
            MLP(layout.num_dense, widths=(*bottom_mlp, width), batch_norm=batch_norm)
            if layout.num_dense
            else None
        )
        top_width = num_dots + (width if self.bottom is not None else 0)
        self.top = MLP(top_width, widths=top_mlp, dropout=dropout, batch_norm=batch_norm)
        self.head = nn.Linear(self.top.out_width, len(layout.labels))
        self._label(layout)

    def forward(self, embedded: Embedded) -> Tensor:
        """Give logits_BT."""
        fields_BFD = embedded.stacked_BFD()
        if self.bottom is None:
            return self.head(self.top(pairwise_dots(fields_BFD)))
        dense_BD = self.bottom(embedded.dense_BN)
        vectors_BFD = torch.cat([dense_BD.unsqueeze(1), fields_BFD], dim=1)
        return self.head(self.top(torch.cat([dense_BD, pairwise_dots(vectors_BFD)], dim=1)))

    def _label(self, layout: FieldLayout) -> None:
        """Say what the layers' inputs are made of."""
        dense: list[Segment] = []
        names = list(layout.fields)
        if self.bottom is not None:
            dense = [Segment(("@dense",), layout.common_width("DLRM"))]
            names = ["@dense", *names]
            self.bottom.label_inputs(dense_segments(layout), output=dense[0])
        self.top.label_inputs([*dense, *pair_segments(names)])
        label_linear(self.head, gives=gives(label_segments(layout)))
