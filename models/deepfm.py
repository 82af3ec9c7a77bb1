"""DeepFM: a factorisation machine and a perceptron over the same vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.nn.interactions import factorization_machine, label_dense_vectors, vector_segments
from recsys.nn.mlp import MLP
from recsys.nn.segments import gives, input_segments, label_linear, label_segments, reads
from recsys.nn.settings import SettingsCheck
from recsys.protocols import Ranker
from recsys.types import Embedded, FieldLayout


class DeepFM(Ranker):
    """Sum of a first-order term, all pairwise dot products, and a perceptron.

    A dense feature is a field too: its value times a learned vector. All fields must be of one
    width. Several labels share the pairwise term.

    Args:
        layout: Widths of the inputs and names of the labels.
        mlp: Widths of the perceptron's layers.
        dropout: Share of the perceptron's activations set to zero.
        batch_norm: Whether the perceptron normalises over the batch.

    Source: Guo et al., DeepFM (2017), https://arxiv.org/abs/1703.04247, eq. 1 to 4.

    Differs from the paper: the first-order weight of a categorical value is a learned linear
    function of its vector, one per field, where the paper stores a number per value; so a
    feature needs no second table.
    """

    multiplies_fields = True

    def __init__(
        self,
        layout: FieldLayout,
        *,
        mlp: tuple[int, ...] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        (
            SettingsCheck("DeepFM")
            .ranker_layout(layout, one_width=True)
            .widths("mlp", mlp, min_layers=1)
            .dropout("dropout", dropout)
            .done()
        )
        width = layout.common_width("DeepFM")
        num_vectors = len(layout.fields) + layout.num_dense
        num_labels = len(layout.labels)
        self.first_order = nn.Linear(layout.width, num_labels)
        self.dense_vectors_ND = nn.Parameter(
            torch.empty(layout.num_dense, width).normal_(std=width**-0.5)
        )
        self.mlp = MLP(num_vectors * width, widths=mlp, dropout=dropout, batch_norm=batch_norm)
        self.head = nn.Linear(self.mlp.out_width, num_labels, bias=False)
        self._label(layout)

    def forward(self, embedded: Embedded) -> Tensor:
        """Give logits_BT."""
        dense_BND = embedded.dense_BN.unsqueeze(2) * self.dense_vectors_ND
        vectors_BFD = torch.cat([embedded.stacked_BFD(), dense_BND], dim=1)
        return (
            self.first_order(embedded.concatenated_BC())
            + factorization_machine(vectors_BFD)
            + self.head(self.mlp(vectors_BFD.flatten(1)))
        )

    def _label(self, layout: FieldLayout) -> None:
        """Say what the parameters' axes are made of."""
        logits = gives(label_segments(layout))
        label_linear(self.first_order, reads=reads(input_segments(layout)), gives=logits)
        label_dense_vectors(self, layout)
        self.mlp.label_inputs(vector_segments(layout, width=layout.common_width("DeepFM")))
        label_linear(self.head, gives=logits)
