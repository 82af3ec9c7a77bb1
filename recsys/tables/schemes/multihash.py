"""Hash embeddings: a sum of several rows, whose weights are learned per id."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from features.table_spec import MultihashTable
from recsys.tables.blocks import as_lists, blocks, own_rows
from recsys.tables.budget import numbers_for, too_small
from recsys.tables.hashing import salt
from recsys.tables.logical import LogicalTable
from recsys.tables.readers import HashedRead, HashedReads
from recsys.tables.scheme import INIT_BOUND, Lookup, PhysicalTable, Scheme


class MultihashScheme(Scheme):
    """Sum of k rows of one table, each times one of the k numbers of a row of another.

    The table of weights has a row for every id where that takes at most half of the numbers;
    otherwise half of them are rows for hashes of the ids.

    Args:
        table: The logical table.
        spec: Its rows or budget, and the number of hashes.

    Raises:
        FeatureConfigError: there is no room for a row of each.

    Source: Svenstrup et al., Hash Embeddings (2017), https://arxiv.org/abs/1709.03933, section 2.

    Without weights it is the Bloom embedding of Serrà and Karatzoglou (2017),
    https://arxiv.org/abs/1706.03993, and spaCy's hash embedding.

    Differs from the paper: weights start uniform with variance 1 / k, so that vectors start with
    the variance of the rows.
    """

    def __init__(self, table: LogicalTable, *, spec: MultihashTable) -> None:
        k = spec.num_hashes
        allowed = numbers_for(table)
        own = own_rows(table)
        num_own = None if own is None else sum(block.size for block in own.values())
        has_own = spec.weighted and num_own is not None and num_own * k <= allowed // 2
        num_weights = num_own if has_own and num_own else allowed // 2 // k if spec.weighted else 0
        num_rows = (allowed - num_weights * k) // table.dim
        if num_rows < 1 or (spec.weighted and num_weights < 1):
            raise too_small(table, least=2 * max(k, table.dim) if spec.weighted else table.dim)
        # A sum of k rows as they are has k times their variance.
        bound = INIT_BOUND if spec.weighted else INIT_BOUND / sqrt(k)
        physical = [PhysicalTable(table.name, num_rows, table.dim, init_bound=bound)]
        if spec.weighted:
            name = f"{table.name}@weights"
            physical.append(PhysicalTable(name, num_weights, k, init_bound=sqrt(3 / k)))
        places = range(k + spec.weighted)
        super().__init__(
            table,
            physical_tables=tuple(physical),
            lookups=tuple(
                Lookup(f"{r.key}@{place}", r.key, physical[place == k].name)
                for r in table.readers
                for place in places
            ),
            widths={r.key: table.dim for r in table.readers},
        )
        self.spec = spec
        self.combines_linearly = not spec.weighted  # fbgemm may sum the rows of several ids
        self.rows = blocks(table, num_rows, multiplexed=spec.multiplexed)
        self.weights = (
            blocks(table, num_weights, multiplexed=spec.multiplexed) if spec.weighted else {}
        )
        self.own_weights = own if has_own else None
        self.reads = HashedReads(
            [
                HashedRead(
                    f"{r.key}@{place}",
                    r.key,
                    salt("multihash", spec.seed, r.salt_name, place),
                    (self.weights if place == k else self.rows)[r.namespace],
                )
                for r in table.readers
                for place in (range(k) if has_own else places)
            ]
        )

    def row_meaning(self) -> dict[str, Any]:
        """Seed, hashes and blocks."""
        return {
            "scheme": "multihash",
            "seed": self.spec.seed,
            "num_hashes": self.spec.num_hashes,
            "rows": as_lists(self.rows),
            "weights": as_lists(self.own_weights or self.weights),
            "is_weighted_by_id": self.own_weights is not None,
        }

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """K hashes of each id into the rows, and its row of weights."""
        rows = self.reads(ids)
        if self.own_weights is None:
            return rows
        own = {
            f"{r.key}@{self.spec.num_hashes}": ids[r.key] + self.own_weights[r.namespace].first
            for r in self.table.readers
        }
        return rows | own

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The weighted sum."""
        return {r.key: self._weighted_sum(r.key, vectors) for r in self.table.readers}

    def _weighted_sum(self, key: str, vectors: Mapping[str, Tensor]) -> Tensor:
        k = self.spec.num_hashes
        if not self.spec.weighted:
            return torch.stack([vectors[f"{key}@{place}"] for place in range(k)]).sum(0)
        weights_L1 = vectors[f"{key}@{k}"].split(1, dim=1)
        total_LD = weights_L1[0] * vectors[f"{key}@0"]
        for place in range(1, k):
            total_LD = total_LD + weights_L1[place] * vectors[f"{key}@{place}"]
        return total_LD
