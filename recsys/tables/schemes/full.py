"""A row of its own for every id: the collisionless reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recsys.tables.blocks import bounded_rows
from recsys.tables.grid import Grid
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme, only


class FullScheme(Scheme):
    """One physical table; features with ids of their own get a block of rows each.

    Args:
        table: The logical table.
        grid: Of its numbers; None: they are floats.

    Raises:
        FeatureConfigError: a reader's ids are unbounded.
    """

    is_made_of_rows = True

    def __init__(self, table: LogicalTable, *, grid: Grid | None = None) -> None:
        own = bounded_rows(table)
        self.own = own
        num_rows = sum(block.size for block in own.values())
        dim = table.dim if grid is None else grid.row_width
        physical = PhysicalTable(table.name, num_rows=num_rows, dim=dim, grid=grid)
        super().__init__(
            table,
            physical_tables=(physical,),
            lookups=tuple(Lookup(r.key, r.key, physical.name) for r in table.readers),
            widths={r.key: table.dim for r in table.readers},
        )

    def row_meaning(self) -> dict[str, Any]:
        """The first row of each feature."""
        first_row = {name: block.first for name, block in self.own.items()}
        return {"scheme": "full", "first_row": first_row}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shift the ids to the feature's block of rows."""
        return {r.key: ids[r.key] + self.own[r.namespace].first for r in self.table.readers}

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The row itself."""
        return only(self.lookups, vectors)
