"""A first training whose blocks of rows are merged where they are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from features.table_plan import TablePlan
from features.table_spec import DedupTable
from recsys.tables.budget import numbers_for, too_small
from recsys.tables.logical import LogicalTable
from recsys.tables.merging import Likeness, merge_blocks
from recsys.tables.schemes.full import FullScheme
from recsys.tables.schemes.merged import BlockCut, merged_plan
from recsys.tables.staged import StagedScheme


class DedupScheme(FullScheme, StagedScheme):
    """The rows of a full table; then blocks of them are merged until the budget holds the rest.

    What is left goes on with its trained rows, and with the network that was trained with them.
    The budget counts rows; which block stands for which is counted apart.

    Args:
        table: The logical table.
        spec: Its rows or budget, its blocks, and when they are alike.

    Raises:
        FeatureConfigError: a reader's ids are unbounded, or there is no room for a block.

    Source: Zhou et al., Serving Deep Learning Models with Deduplication from Relational Databases
    (2022), https://arxiv.org/abs/2201.10442, algorithm 1, as in Hetu (2024),
    https://arxiv.org/abs/2311.15578: merging ends by the budget, not by the loss of accuracy.

    Differs from these: the most similar pairs are merged first; a block is merged into one that is
    kept, so that likeness is not handed on; and where the blocks that are alike are too few for the
    budget, the nearest are merged.
    """

    storage: ClassVar[str] = "merged"
    keeps_network: ClassVar[bool] = True

    def __init__(self, table: LogicalTable, *, spec: DedupTable) -> None:
        super().__init__(table)
        counts = {name: block.size for name, block in self.own.items()}
        self.spec, self.cut = spec, BlockCut(counts, spec.block_rows)
        longest = int(self.cut.lengths.max())
        self.num_rows = numbers_for(table) // table.dim
        if self.num_rows < longest:
            raise too_small(table, least=longest * table.dim)

    def row_meaning(self) -> dict[str, Any]:
        """The first row of each feature."""
        return super().row_meaning() | {"scheme": "dedup"}

    def plan(self, weights: Mapping[str, Tensor]) -> TablePlan:
        """Merge blocks; those that are kept have their trained rows."""
        [physical] = self.physical_tables
        rows_VD = weights[physical.name].detach().float().cpu()
        spec = self.spec
        stands_B = merge_blocks(
            self.cut.blocks(rows_VD),
            torch.from_numpy(self.cut.lengths),
            num_rows=self.num_rows,
            likeness=Likeness(spec.tolerance, spec.similar_share, spec.seed),
        )
        return merged_plan(physical.name, rows_VD.numpy(), cut=self.cut, stands_B=stands_B.numpy())
