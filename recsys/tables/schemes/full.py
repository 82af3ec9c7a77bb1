"""A row of its own for every id: the collisionless reference."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from features.errors import FeatureConfigError
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme, only


class FullScheme(Scheme):
    """One physical table; features with ids of their own get a block of rows each.

    Args:
        table: The logical table.

    Raises:
        FeatureConfigError: a reader's ids are unbounded.
    """

    def __init__(self, table: LogicalTable) -> None:
        num_ids = {
            name: _bounded(table, name, count)
            for name, count in table.num_ids_per_namespace().items()
        }
        starts = accumulate(num_ids.values(), initial=0)
        self.first_row = dict(zip(num_ids, starts, strict=False))
        self.num_ids = num_ids
        physical = PhysicalTable(table.name, num_rows=sum(num_ids.values()), dim=table.dim)
        super().__init__(
            table,
            physical_tables=(physical,),
            lookups=tuple(Lookup(r.key, r.key, physical.name) for r in table.readers),
            widths={r.key: table.dim for r in table.readers},
        )

    def row_meaning(self) -> dict[str, Any]:
        """The first row of each feature."""
        return {"scheme": "full", "first_row": self.first_row}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shift the ids to the feature's block of rows."""
        for reader in self.table.readers:
            _check_range(ids[reader.key], reader.key, self.num_ids[reader.namespace])
        return {r.key: ids[r.key] + self.first_row[r.namespace] for r in self.table.readers}

    def combine(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The row itself."""
        return only(self.lookups, vectors)


def _bounded(table: LogicalTable, feature: str, num_ids: int | None) -> int:
    if num_ids is None:
        raise FeatureConfigError(
            f"tables.{table.name}: a full table needs a bounded number of ids, got feature "
            f"{feature!r} with a hash encoding of no size; give the encoding a size, or take a "
            f"hash or unified table"
        )
    return num_ids


def _check_range(ids: Tensor, feature: str, num_ids: int) -> None:
    # fbgemm reads row 0 for an id beyond the table, silently. On a GPU the look would cost a
    # synchronisation; there the data layer's own check has to do.
    if ids.device.type != "cpu" or ids.numel() == 0:
        return
    low, high = (int(end) for end in torch.aminmax(ids))
    if low < 0 or high >= num_ids:
        wrong = low if low < 0 else high
        raise ValueError(f"{feature}: id {wrong} is out of range; allowed 0 ... {num_ids - 1}")
