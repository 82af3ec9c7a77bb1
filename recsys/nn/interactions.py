"""Products of fields: explicit crosses, the factorisation machine, pairwise dots.

B examples · F fields · D embedding width · C concatenated width · P pairs of fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from recsys.nn.segments import Segment, dense_segments, gives, label, label_linear, reads
from recsys.types import FieldLayout


class CrossLayer(nn.Module):
    """One cross: x_{l+1} = x_0 * (W x_l + b) + x_l; W = U V where a rank is given.

    Args:
        width: C, the width of the input and the output.
        low_rank: Rank of W; None for a full matrix.

    Source: Wang et al., DCN V2 (2021), https://arxiv.org/abs/2008.13535, eq. 1 and 2.
    """

    def __init__(self, width: int, *, low_rank: int | None = None) -> None:
        super().__init__()
        self.weight: nn.Module = (
            nn.Linear(width, width)
            if low_rank is None
            else nn.Sequential(nn.Linear(width, low_rank, bias=False), nn.Linear(low_rank, width))
        )

    def label_inputs(self, segments: Sequence[Segment]) -> None:
        """Say what input and output are made of."""
        if isinstance(self.weight, nn.Sequential):
            label_linear(self.weight[0], reads=reads(segments))
            label_linear(self.weight[1], gives=gives(segments))
        else:
            label_linear(self.weight, reads=reads(segments), gives=gives(segments))

    def forward(self, first_BC: Tensor, inputs_BC: Tensor) -> Tensor:
        """Cross the input of the network, x_0, with that of the layer, x_l."""
        return torch.addcmul(inputs_BC, first_BC, self.weight(inputs_BC))


class CrossNetwork(nn.Module):
    """Cross layers on top of each other; l of them give all products of up to l + 1 inputs.

    Args:
        width: C, the width of the input and the output.
        num_layers: Number of crosses; with 0 the input passes through.
        low_rank: Rank of each weight matrix; None for full matrices.

    Source: Wang et al., DCN V2 (2021), https://arxiv.org/abs/2008.13535, section 3.2.
    """

    def __init__(self, width: int, *, num_layers: int, low_rank: int | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(width, low_rank=low_rank) for _ in range(num_layers))

    def label_inputs(self, segments: Sequence[Segment]) -> None:
        """Say what input and output are made of."""
        for layer in self.layers:
            assert isinstance(layer, CrossLayer)
            layer.label_inputs(segments)

    def forward(self, inputs_BC: Tensor) -> Tensor:
        """Give x_l of the last layer."""
        crossed_BC = inputs_BC
        for layer in self.layers:
            crossed_BC = layer(inputs_BC, crossed_BC)
        return crossed_BC


def factorization_machine(vectors_BFD: Tensor) -> Tensor:
    """Sum of the dot products of all pairs of vectors, as (B, 1).

    It is computed as half of (sum of vectors)^2 - sum of (vectors^2), summed over D, in time
    linear in F.

    Source: Rendle, Factorization Machines (2010), https://doi.org/10.1109/ICDM.2010.127, lemma 3.1.
    """
    square_of_sum_BD = vectors_BFD.sum(dim=1).square()
    sum_of_squares_BD = vectors_BFD.square().sum(dim=1)
    return 0.5 * (square_of_sum_BD - sum_of_squares_BD).sum(dim=1, keepdim=True)


def pairwise_dots(vectors_BFD: Tensor) -> Tensor:
    """Dot product of every pair of different vectors, as (B, P) with P = F (F - 1) / 2.

    Pairs come in the order (0, 1), (0, 2), ..., (1, 2), ...

    Source: Naumov et al., DLRM (2019), https://arxiv.org/abs/1906.00091, section 2.1.
    """
    num_fields = vectors_BFD.shape[1]
    dots_BFF = torch.bmm(vectors_BFD, vectors_BFD.transpose(1, 2))
    rows, columns = torch.triu_indices(
        num_fields, num_fields, offset=1, device=vectors_BFD.device
    ).unbind()
    return dots_BFF.flatten(1).index_select(1, rows * num_fields + columns)


def pair_segments(names: Sequence[str]) -> tuple[Segment, ...]:
    """What `pairwise_dots` gives, from the names of the vectors."""
    return tuple(Segment(pair, 1) for pair in combinations(names, 2))


def vector_segments(layout: FieldLayout, *, width: int) -> tuple[Segment, ...]:
    """The vectors of all fields and dense numbers side by side.

    Args:
        layout: Names them.
        width: D.
    """
    fields = [Segment((key,), width) for key in layout.fields]
    numbers = [(name, f"@{place}") for name, size in layout.dense.items() for place in range(size)]
    return (*fields, *(Segment(number, width) for number in numbers))


def label_dense_vectors(model: nn.Module, layout: FieldLayout) -> None:
    """Label `dense_vectors_ND`; a new dense feature starts with zeros, like a new field."""
    width = Segment(("@width",), layout.common_width(type(model).__name__))
    label(model, "dense_vectors_ND", reads(dense_segments(layout)), gives([width]))
