"""Factorisation machine: all pairs of vectors, multiplied."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.nn.interactions import factorization_machine, label_dense_vectors
from recsys.nn.segments import gives, input_segments, label, label_linear, label_segments, reads
from recsys.nn.settings import SettingsCheck
from recsys.protocols import Ranker
from recsys.types import Embedded, FieldLayout


class FM(Ranker):
    """Sum of a bias, a first-order term and all pairwise dot products.

    A dense feature is a field too: its value times a learned vector. All fields must be of one
    width. Several labels share the pairwise term.

    Args:
        layout: Widths of the inputs and names of the labels.
        first_order: Whether there is a first-order term. Without it, user and item alone make
            matrix factorisation.

    Source: Rendle, Factorization Machines (2010), equation 1.

    Differs from the paper: the first-order weight of a categorical value is a learned linear
    function of its vector, one per field, as in `DeepFM`.
    """

    multiplies_fields = True

    def __init__(self, layout: FieldLayout, *, first_order: bool = True) -> None:
        super().__init__()
        SettingsCheck("FM").ranker_layout(layout, one_width=True).done()
        width = layout.common_width("FM")
        self.bias_T = nn.Parameter(torch.zeros(len(layout.labels)))
        self.dense_vectors_ND = nn.Parameter(
            torch.empty(layout.num_dense, width).normal_(std=width**-0.5)
        )
        self.first_order = (
            nn.Linear(layout.width, len(layout.labels), bias=False) if first_order else None
        )
        self._label(layout)

    def forward(self, embedded: Embedded) -> Tensor:
        """Give logits_BT."""
        dense_BND = embedded.dense_BN.unsqueeze(2) * self.dense_vectors_ND
        vectors_BFD = torch.cat([embedded.stacked_BFD(), dense_BND], dim=1)
        logits_BT = factorization_machine(vectors_BFD) + self.bias_T
        if self.first_order is None:
            return logits_BT
        return logits_BT + self.first_order(embedded.concatenated_BC())

    def _label(self, layout: FieldLayout) -> None:
        """Say what the parameters' axes are made of."""
        logits = gives(label_segments(layout))
        label(self, "bias_T", logits)
        label_dense_vectors(self, layout)
        if self.first_order is not None:
            label_linear(self.first_order, reads=reads(input_segments(layout)), gives=logits)
