"""Deep hash embedding: a network makes the vector of an id from many of its hashes."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from features.table_spec import DHETable
from recsys.tables.budget import largest_size
from recsys.tables.hashing import salt, splitmix64, uniform_pm1
from recsys.tables.logical import LogicalTable
from recsys.tables.readers import concatenate, spread
from recsys.tables.scheme import INIT_BOUND, Scheme


class DHEScheme(Scheme):
    """K hashes of an id in [-1, 1), hidden layers of one width, and a linear one to the vector.

    Args:
        table: The logical table.
        spec: Its rows or budget, hashes and layers.

    Raises:
        FeatureConfigError: hidden layers of width 1 have no room.

    Source: Kang et al., DHE (2021), https://arxiv.org/abs/2010.10784, section 3.

    Differs from the paper: layer normalisation, where batch normalisation would give other vectors
    on several ranks than on one; and all features share the network, told apart by their hashes.
    """

    combines_linearly = False
    salts_R1: Tensor
    salts_K: Tensor

    def __init__(self, table: LogicalTable, *, spec: DHETable) -> None:
        super().__init__(
            table,
            physical_tables=(),
            lookups=(),
            widths={r.key: table.dim for r in table.readers},
        )
        hidden_width = largest_size(
            table,
            numbers_of=lambda w: _num_numbers(w, spec, table.dim),
        )
        self.spec = spec
        self.num_hashes = spec.num_hashes or hidden_width
        widths = [self.num_hashes, *[hidden_width] * spec.num_layers]
        self.network = nn.Sequential(
            *[_Layer(w, hidden_width) for w in widths[:-1]], nn.Linear(hidden_width, table.dim)
        )
        _scale(self.network, self.num_hashes)
        salts = [[salt("dhe", spec.seed, r.salt_name)] for r in table.readers]
        self.register_buffer("salts_R1", torch.tensor(salts, dtype=torch.int64), persistent=False)
        of_hashes = [salt("dhe hash", number) for number in range(self.num_hashes)]
        self.register_buffer("salts_K", torch.tensor(of_hashes), persistent=False)

    def row_meaning(self) -> dict[str, Any]:
        """Seed and number of hashes."""
        return {"scheme": "dhe", "seed": self.spec.seed, "num_hashes": self.num_hashes}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing is looked up by row."""
        return {}

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The network's output for each id, computed once for equal ones."""
        keys = [r.key for r in self.table.readers]
        values_L, counts = concatenate(ids, keys)
        (salts_L,) = spread(self.salts_R1, counts)
        mixed_U, place_L = splitmix64(values_L + salts_L).unique(return_inverse=True)
        hashes_UK = uniform_pm1(mixed_U.unsqueeze(1) + self.salts_K)
        vectors_UD = self.network(hashes_UK.to(next(self.parameters()).dtype))
        vectors_LD = vectors_UD.index_select(0, place_L)
        return dict(zip(keys, vectors_LD.split(counts), strict=True))


class _Layer(nn.Sequential):
    """Linear, normalisation, Mish."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__(nn.Linear(width, hidden_width), nn.LayerNorm(hidden_width), nn.Mish())


def _num_numbers(hidden_width: int, spec: DHETable, dim: int) -> int:
    num_hashes = spec.num_hashes or hidden_width
    inputs = num_hashes + (spec.num_layers - 1) * hidden_width
    # Weights; biases and the two parameters of each normalisation; the last layer.
    return inputs * hidden_width + 3 * spec.num_layers * hidden_width + (hidden_width + 1) * dim


def _scale(network: nn.Sequential, num_hashes: int) -> None:
    """Let vectors start around 0 with the variance of all schemes: measured on random hashes."""
    last = network[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        nn.init.zeros_(last.bias)
        vectors_UD = network(torch.rand(256, num_hashes) * 2 - 1)
        mean_D = vectors_UD.mean(0)  # what all ids have in common tells none apart
        spread = (vectors_UD - mean_D).std()
        scale = INIT_BOUND / sqrt(3) / spread.clamp(min=1e-6)
        last.weight *= scale
        last.bias -= mean_D * scale
