"""Feature hashing: ids share rows at random, features do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from features.errors import FeatureConfigError
from features.spec import HashTable
from recsys.tables.budget import rows_for
from recsys.tables.hashing import hash_to_rows, salt
from recsys.tables.logical import LogicalTable
from recsys.tables.readers import concatenate, spread
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme, only


class HashScheme(Scheme):
    """One physical table, cut into a block of rows per feature in proportion to its ids.

    Args:
        table: The logical table.
        spec: Its rows or budget.

    Raises:
        FeatureConfigError: features of unknown cardinality share the table, or it has fewer rows
            than features.

    Source: Weinberger et al., Feature Hashing (2009); row allocation as the separate-table
    baseline of Coleman et al., Unified Embedding (2023), https://arxiv.org/abs/2305.12102.
    """

    plan_R3: Tensor

    def __init__(self, table: LogicalTable, *, spec: HashTable) -> None:
        physical = PhysicalTable(
            table.name, num_rows=rows_for(spec, dim=table.dim, name=table.name), dim=table.dim
        )
        super().__init__(
            table,
            physical_tables=(physical,),
            lookups=tuple(Lookup(r.key, r.key, physical.name) for r in table.readers),
            widths={r.key: table.dim for r in table.readers},
        )
        self.blocks = _blocks(table, physical.num_rows)
        columns = [(salt("hash", r.namespace), *self.blocks[r.namespace]) for r in table.readers]
        plan = torch.tensor(columns, dtype=torch.int64)
        self.register_buffer("plan_R3", plan, persistent=False)

    def row_meaning(self) -> dict[str, Any]:
        """First row and number of rows of each feature's block."""
        return {"scheme": "hash", "blocks": {name: list(b) for name, b in self.blocks.items()}}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """First row of the block + hash(id) mod rows of the block."""
        keys = [r.key for r in self.table.readers]
        values, counts = concatenate(ids, keys)
        salts, first_rows, num_rows = spread(self.plan_R3, counts)
        rows = first_rows + hash_to_rows(values, salts, num_rows)
        return dict(zip(keys, rows.split(counts), strict=True))

    def combine(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The row itself."""
        return only(self.lookups, vectors)


def _blocks(table: LogicalTable, num_rows: int) -> dict[str, tuple[int, int]]:
    """First row and number of rows of each feature; they add up to `num_rows`."""
    num_ids = table.num_ids_per_namespace()
    unbounded = [name for name, count in num_ids.items() if count is None]
    if len(num_ids) == 1:
        return dict.fromkeys(num_ids, (0, num_rows))
    if unbounded:
        raise FeatureConfigError(
            f"tables.{table.name}: a hash table read by several features gives each its share of "
            f"the rows, got features of unknown cardinality: {', '.join(unbounded)}; give their "
            f"hash encoding a size, or take a unified table"
        )
    if num_rows < len(num_ids):
        raise FeatureConfigError(
            f"tables.{table.name}: needs a row for each of its {len(num_ids)} features, got "
            f"{num_rows} rows; raise rows or budget"
        )
    counts = {name: count or 0 for name, count in num_ids.items()}
    return _proportional_blocks(counts, num_rows)


def _proportional_blocks(counts: Mapping[str, int], num_rows: int) -> dict[str, tuple[int, int]]:
    total, left = sum(counts.values()), num_rows
    sizes: dict[str, int] = {}
    # From the smallest on, so that rounding up to one row is paid by the largest feature.
    for position, name in enumerate(sorted(counts, key=lambda n: (counts[n], n))):
        others = len(counts) - position - 1
        share = round(counts[name] * num_rows / total)
        sizes[name] = left if others == 0 else max(1, min(share, left - others))
        left -= sizes[name]
    blocks, first = {}, 0
    for name in counts:
        blocks[name] = (first, sizes[name])
        first += sizes[name]
    return blocks
