"""OptEmbed's supernet: thresholds for rows, and all widths trained at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from features.table_plan import TablePlan
from features.table_spec import OptEmbedTable
from recsys.tables.blocks import as_lists, bounded_rows
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.row_masks import Thresholds, row_mask, row_norms
from recsys.tables.scheme import AfterStep, Lookup, Part, PhysicalTable
from recsys.tables.schemes.pruned import pruned_plan
from recsys.tables.staged import SearchedScheme


class OptEmbedScheme(SearchedScheme):
    """The rows of a full table; those shorter than a threshold of their feature are read as zeros.

    In training each id reads the first d numbers of its row, d drawn anew each time, so that every
    width of every feature is trained; what d is best for each a search finds out later.

    Args:
        table: The logical table.
        spec: How thresholds are trained.
        seed: Of the first values, with which the planned table begins too.

    Raises:
        FeatureConfigError: a reader's ids are unbounded.

    Source: Lyu et al., OptEmbed (2022), https://arxiv.org/abs/2208.04482; L1 norms and the one
    optimiser of thresholds as its code has them, https://github.com/fuyuanlyu/OptEmbed.

    Differs from the code: a feature of several ids draws a width for each of them; thresholds stay
    below the 0.99 quantile of the norms of their feature's rows.
    """

    storage: ClassVar[str] = "pruned"
    combines_linearly = False  # norms are those of single rows
    takes_half_rows = False
    thresholds_F: nn.Parameter

    def __init__(self, table: LogicalTable, *, spec: OptEmbedTable, seed: int) -> None:
        self.own = bounded_rows(table)
        num_rows = sum(block.size for block in self.own.values())
        super().__init__(
            table,
            physical_tables=(PhysicalTable(table.name, num_rows, table.dim),),
            lookups=tuple(Lookup(r.key, r.key, table.name) for r in table.readers),
            widths={r.key: table.dim for r in table.readers},
        )
        self.spec, self.seed = spec, seed
        self.thresholds_F = nn.Parameter(torch.zeros(len(self.own)))
        self._place = {name: place for place, name in enumerate(self.own)}
        self._moved: Thresholds | None = None

    def row_meaning(self) -> dict[str, Any]:
        """The rows of each feature."""
        return {"scheme": "optembed", "rows": as_lists(self.own)}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shift the ids to the feature's block of rows."""
        return {r.key: ids[r.key] + self.own[r.namespace].first for r in self.table.readers}

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The row where it is long enough; in training so many numbers of it as were drawn."""
        found = {}
        for reader in self.table.readers:
            rows_LD = vectors[reader.key]
            threshold = self.thresholds_F[self._place[reader.namespace]]
            found[reader.key] = rows_LD * row_mask(rows_LD, threshold)
            if self.training:
                found[reader.key] = found[reader.key] * _drawn_widths(rows_LD)
        return found

    def penalty(self) -> Tensor:
        """What keeps thresholds rising: alpha times the sum of exp(-threshold)."""
        return self.spec.alpha * (-self.thresholds_F).exp().sum()

    def updated_by_itself(self) -> tuple[nn.Parameter, ...]:
        """The thresholds."""
        return (self.thresholds_F,)

    def after_steps(self, parts: Sequence[Part]) -> AfterStep | None:
        """Move the thresholds."""
        self._moved = Thresholds(
            self.thresholds_F, parts, blocks=self.own, lr=self.spec.threshold_lr
        )
        return self._moved

    def gauges(self) -> dict[str, Tensor]:
        """Share of the rows that are kept: of each feature, and of all."""
        if self._moved is None:
            return {}
        shares = self._moved.kept_shares()
        sizes = {name: block.size for name, block in self.own.items()}
        kept = sum(share * sizes[name] for name, share in shares.items())
        assert isinstance(kept, Tensor)
        of_all = {"kept_rows": kept / sum(sizes.values())}
        return of_all | {f"kept_rows/{name}": share for name, share in shares.items()}

    # -------------------------------------------------------------------------------- the plan
    def num_kept(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Rows above the thresholds, by feature."""
        return {name: int(kept.sum()) for name, kept in self._is_kept(weights).items()}

    def plan(self, weights: Mapping[str, Tensor]) -> TablePlan:
        """Rows above the thresholds, in the chosen widths, as they were before training."""
        [physical] = self.physical_tables
        first_VD = initial_rows(physical, seed=self.seed)
        rows = {n: first_VD[b.first : b.first + b.size] for n, b in self.own.items()}
        return pruned_plan(
            self.table.name,
            is_kept=self._is_kept(weights),
            widths=self.chosen,
            first_values={name: of_feature.numpy() for name, of_feature in rows.items()},
        )

    def _is_kept(self, weights: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
        """Whether an id's row is, by feature; at least its longest row is."""
        [physical] = self.physical_tables
        norms_V = row_norms(weights[physical.name].detach())
        found = {}
        for threshold, (name, block) in zip(
            self.thresholds_F.detach(), self.own.items(), strict=True
        ):
            norms = norms_V[block.first : block.first + block.size]
            is_kept = norms > threshold
            is_kept[norms.argmax()] = True
            found[name] = is_kept.numpy()
        return found


def _drawn_widths(rows_LD: Tensor) -> Tensor:
    """Masks (L, D) of d leading ones, d drawn from 1 to D for each row."""
    length, dim = rows_LD.shape
    widths_L1 = torch.randint(1, dim + 1, (length, 1), device=rows_LD.device)
    return (torch.arange(dim, device=rows_LD.device) < widths_L1).to(rows_LD.dtype)
