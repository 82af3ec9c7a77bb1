"""Schemes whose vectors are picked, number by number, from one array."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from features.table_spec import HashedNetTable, RobeTable
from recsys.tables.blocks import as_lists, blocks
from recsys.tables.budget import numbers_for
from recsys.tables.hashing import salt, splitmix64
from recsys.tables.logical import LogicalTable
from recsys.tables.readers import HashedRead, HashedReads
from recsys.tables.scheme import INIT_BOUND, Scheme


class ArrayScheme(Scheme):
    """One array of numbers, a parameter of the scheme's own; nothing is looked up by row.

    Args:
        table: The logical table.
        spec: Its rows or budget.

    Raises:
        FeatureConfigError: features of unknown cardinality want parts of their own, or a part
            would have fewer numbers than a vector.
    """

    combines_linearly = False

    def __init__(self, table: LogicalTable, *, spec: HashedNetTable | RobeTable) -> None:
        super().__init__(
            table,
            physical_tables=(),
            lookups=(),
            widths={r.key: table.dim for r in table.readers},
        )
        self.seed = spec.seed
        num_numbers = numbers_for(table)
        self.blocks = blocks(
            table,
            num_numbers,
            multiplexed=spec.multiplexed,
            least=table.dim,  # as the separate rows of a feature are at least one
            unit="numbers",
        )
        numbers_S = torch.empty(num_numbers).uniform_(-INIT_BOUND, INIT_BOUND)
        self.numbers_S = nn.Parameter(numbers_S)
        self.reads = HashedReads(
            [
                HashedRead(
                    r.key,
                    r.key,
                    salt(spec.scheme, spec.seed, r.salt_name),
                    self.blocks[r.namespace],
                )
                for r in table.readers
            ]
        )

    @abstractmethod
    def pick(self, mixed_L1: Tensor, coordinate_D: Tensor, size_L1: Tensor) -> Tensor:
        """Places (L, D) of a vector's numbers.

        Args:
            mixed_L1: A random number for each id of each feature.
            coordinate_D: 0 ... D - 1.
            size_L1: Places are 0 ... size - 1.
        """

    def row_meaning(self) -> dict[str, Any]:
        """Seed and parts."""
        scheme = self.table.spec.scheme
        return {"scheme": scheme, "seed": self.seed, "blocks": as_lists(self.blocks)}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing is looked up by row."""
        return {}

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The numbers that the ids pick."""
        values_L, (salts_L, first_L, size_L), counts = self.reads.spread(ids)
        place_LD = self.pick(
            splitmix64(values_L + salts_L).unsqueeze(1),
            torch.arange(self.table.dim, device=values_L.device),
            size_L.unsqueeze(1),
        )
        place_LD = first_L.unsqueeze(1) + place_LD
        picked_LD = self.numbers_S.index_select(0, place_LD.flatten()).view_as(place_LD)
        keys = [r.key for r in self.table.readers]
        return dict(zip(keys, picked_LD.split(counts), strict=True))
