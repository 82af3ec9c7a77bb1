"""Blocks of rows, some of which stand for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.table_plan import TablePlan
from recsys.tables.blocks import Block, bounded_rows
from recsys.tables.indices import smallest_unsigned
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme, only
from recsys.tables.staged import plan_of

_SHARED, _BLOCK_ROWS, _FIRST_BLOCK = "shared", "block_rows", "first_block."


class BlockCut:
    """A full table cut into blocks; none has rows of two features.

    Args:
        counts: Ids of each feature.
        block_rows: Rows of a block; the last one of a feature may have fewer.

    Attributes:
        block_rows: R.
        first_block: Of each feature.
        lengths: Rows of each block.
    """

    def __init__(self, counts: Mapping[str, int], block_rows: int) -> None:
        self.block_rows = block_rows
        self.first_block: dict[str, int] = {}
        lengths: list[int] = []
        for name, count in counts.items():
            self.first_block[name] = len(lengths)
            whole, left = divmod(count, block_rows)
            lengths += [block_rows] * whole + [left] * (left > 0)
        self.lengths = np.array(lengths, np.int64)

    @property
    def first_row(self) -> NDArray[np.int64]:
        """Of each block."""
        return self.lengths.cumsum() - self.lengths

    def blocks(self, rows_VD: Tensor) -> Tensor:
        """Rows by block (B, R, D), short ones filled up with zeros."""
        blocks_BRD = rows_VD.new_zeros(len(self.lengths), self.block_rows, rows_VD.shape[1])
        is_row_BR = torch.arange(self.block_rows) < torch.from_numpy(self.lengths)[:, None]
        blocks_BRD[is_row_BR] = rows_VD
        return blocks_BRD


class MergedScheme(Scheme):
    """One physical table of the blocks that are kept.

    Args:
        table: The logical table, with its plan.

    Raises:
        FeatureConfigError: there is no plan, or a reader's ids are unbounded.
    """

    starts_B: Tensor

    def __init__(self, table: LogicalTable) -> None:
        plan = plan_of(table)
        counts = {name: block.size for name, block in bounded_rows(table).items()}
        self.shared = plan.kept[_SHARED]
        in_order = sorted(counts, key=lambda name: int(plan.kept[_FIRST_BLOCK + name]))
        cut = BlockCut({n: counts[n] for n in in_order}, int(plan.kept[_BLOCK_ROWS]))
        lengths = np.zeros(int(self.shared.max()) + 1, np.int64)
        np.maximum.at(lengths, self.shared, cut.lengths)
        first_values = plan.first_values.get(table.name)
        physical = PhysicalTable(
            table.name,
            num_rows=int(lengths.sum()),
            dim=table.dim,
            first_values=None if first_values is None else torch.from_numpy(first_values),
        )
        super().__init__(
            table,
            physical_tables=(physical,),
            lookups=tuple(Lookup(r.key, r.key, physical.name) for r in table.readers),
            widths={r.key: table.dim for r in table.readers},
        )
        self.cut, self._digest = cut, plan.digest
        self._ids = {name: Block(0, count) for name, count in counts.items()}
        starts = (lengths.cumsum() - lengths)[self.shared]
        # Not saved: the plan says it.
        self.register_buffer("starts_B", torch.from_numpy(starts), persistent=False)

    def row_meaning(self) -> dict[str, Any]:
        """The plan."""
        return {"scheme": "merged", "plan": self._digest}

    @property
    def index_bytes(self) -> int:
        """Size, in a file, of what says which block stands for which."""
        return self.shared.nbytes

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The id's place in the block that stands for its own."""
        found = {}
        for r in self.table.readers:
            own_L = ids[r.key] + self._ids[r.namespace].first
            blocks_L = own_L // self.cut.block_rows + self.cut.first_block[r.namespace]
            found[r.key] = self.starts_B[blocks_L] + own_L % self.cut.block_rows
        return found

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The row itself."""
        return only(self.lookups, vectors)


def merged_plan(
    table: str,
    rows_VD: NDArray[np.float32],
    *,
    cut: BlockCut,
    stands_B: NDArray[np.int64],
) -> TablePlan:
    """The plan of a merged table.

    Args:
        table: Its name.
        rows_VD: The whole table, of which those of kept blocks are the first values.
        cut: Of the whole table.
        stands_B: The block that stands for each; itself where it is kept.
    """
    kept, shared_B = np.unique(stands_B, return_inverse=True)
    of_block = np.repeat(np.arange(len(cut.lengths)), cut.lengths)
    return TablePlan(
        scheme="merged",
        kept={
            _SHARED: shared_B.astype(smallest_unsigned(len(kept))),
            _BLOCK_ROWS: np.array(cut.block_rows, np.int64),
            **{_FIRST_BLOCK + n: np.array(b, np.int64) for n, b in cut.first_block.items()},
        },
        first_values={table: rows_VD[np.isin(of_block, kept)]},
    )
