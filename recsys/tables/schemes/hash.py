"""Feature hashing: ids share rows at random, features do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recsys.tables.blocks import as_lists, blocks
from recsys.tables.budget import rows_for
from recsys.tables.hashing import salt
from recsys.tables.logical import LogicalTable
from recsys.tables.readers import HashedRead, HashedReads
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme, only


class HashScheme(Scheme):
    """One physical table, cut into a block of rows per feature in proportion to its ids.

    Args:
        table: The logical table.

    Raises:
        FeatureConfigError: features of unknown cardinality share the table, or it has fewer rows
            than features.

    Source: Weinberger et al., Feature Hashing (2009).
    """

    is_made_of_rows = True

    def __init__(self, table: LogicalTable) -> None:
        num_rows = rows_for(table)
        physical = PhysicalTable(table.name, num_rows=num_rows, dim=table.dim)
        super().__init__(
            table,
            physical_tables=(physical,),
            lookups=tuple(Lookup(r.key, r.key, physical.name) for r in table.readers),
            widths={r.key: table.dim for r in table.readers},
        )
        self.blocks = blocks(table, num_rows, multiplexed=False)
        self.reads = HashedReads(
            [
                HashedRead(r.key, r.key, salt("hash", r.salt_name), self.blocks[r.namespace])
                for r in table.readers
            ]
        )

    def row_meaning(self) -> dict[str, Any]:
        """First row and number of rows of each feature's block."""
        return {"scheme": "hash", "blocks": as_lists(self.blocks)}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """First row of the block + hash(id) mod rows of the block."""
        return self.reads(ids)

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The row itself."""
        return only(self.lookups, vectors)
