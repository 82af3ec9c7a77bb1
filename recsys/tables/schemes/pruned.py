"""Some ids have rows, each feature's of its own width; the other ids read zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from features.table_plan import TablePlan
from recsys.tables.blocks import Block, bounded_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme
from recsys.tables.staged import plan_of

_IS_KEPT, _WIDTH = "is_kept.", "width."
_NO_ROW = -1


class PrunedScheme(Scheme):
    """A physical table per feature, with the rows and the width that its plan keeps.

    Vectors are filled up with zeros to the width of the logical table.

    Args:
        table: The logical table, with its plan.

    Raises:
        FeatureConfigError: there is no plan, or a reader's ids are unbounded.
    """

    combines_linearly = False  # which vectors are zeros the ids say

    def __init__(self, table: LogicalTable) -> None:
        plan = plan_of(table)
        counts = {name: block.size for name, block in bounded_rows(table).items()}
        kept = {name: _unpacked(plan, name, count=count) for name, count in counts.items()}
        super().__init__(
            table,
            physical_tables=tuple(
                PhysicalTable(
                    physical_name(table.name, name),
                    num_rows=int(is_kept.sum()),
                    dim=int(plan.kept[_WIDTH + name]),
                    first_values=_first_values(plan, physical_name(table.name, name)),
                )
                for name, is_kept in kept.items()
            ),
            lookups=tuple(
                Lookup(r.key, r.key, physical_name(table.name, r.namespace)) for r in table.readers
            ),
            widths={r.key: table.dim for r in table.readers},
        )
        self._digest = plan.digest
        self._ids = {name: Block(0, count) for name, count in counts.items()}
        self._place = {name: place for place, name in enumerate(counts)}
        for name, is_kept in kept.items():
            # Not saved: the plan says it, in a bit for each id.
            self.register_buffer(self._rows_name(name), _rows(is_kept), persistent=False)

    def row_meaning(self) -> dict[str, Any]:
        """The plan."""
        return {"scheme": "pruned", "plan": self._digest}

    @property
    def index_bytes(self) -> int:
        """A bit for each id."""
        return sum(-(-block.size // 8) for block in self._ids.values())

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The row of an id; the first one where it has none, which `combine` leaves out."""
        return {r.key: self._rows_of(ids, r.key).clamp(min=0) for r in self.table.readers}

    def has_rows(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whether the plan keeps them."""
        return {r.key: self._rows_of(ids, r.key) != _NO_ROW for r in self.table.readers}

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The row and zeros, or zeros alone."""
        found, has_rows = {}, self.has_rows(ids)
        for reader in self.table.readers:
            row_LW = vectors[reader.key] * has_rows[reader.key][:, None]
            found[reader.key] = pad(row_LW, (0, self.table.dim - row_LW.shape[1]))
        return found

    def _rows_of(self, ids: Mapping[str, Tensor], key: str) -> Tensor:
        [namespace] = {r.namespace for r in self.table.readers if r.key == key}
        checked = ids[key] + self._ids[namespace].first
        return self.get_buffer(self._rows_name(namespace))[checked].long()

    def _rows_name(self, namespace: str) -> str:
        return f"rows_{self._place[namespace]}"


def pruned_plan(
    table: str,
    *,
    is_kept: Mapping[str, NDArray[np.bool_]],
    widths: Mapping[str, int],
    first_values: Mapping[str, NDArray[np.float32]],
) -> TablePlan:
    """The plan of a pruned table.

    Args:
        table: Its name.
        is_kept: Whether an id has a row, by feature.
        widths: Of the rows, by feature.
        first_values: Rows of the whole table, by feature, that are cut down.
    """
    kept = {_IS_KEPT + name: np.packbits(flags) for name, flags in is_kept.items()}
    kept |= {_WIDTH + name: np.array(widths[name], np.int32) for name in is_kept}
    return TablePlan(
        scheme="pruned",
        kept=kept,
        first_values={
            physical_name(table, name): first_values[name][flags, : widths[name]]
            for name, flags in is_kept.items()
        },
    )


def physical_name(table: str, feature: str) -> str:
    """Name of the physical table of a feature."""
    return f"{table}@{feature}"


def _unpacked(plan: TablePlan, name: str, *, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(plan.kept[_IS_KEPT + name], count=count).astype(bool)


def _first_values(plan: TablePlan, physical: str) -> Tensor | None:
    found = plan.first_values.get(physical)
    return None if found is None else torch.from_numpy(found)


def _rows(is_kept: NDArray[np.bool_]) -> Tensor:
    """Row by id; -1 where it has none."""
    rows = np.where(is_kept, is_kept.cumsum() - 1, _NO_ROW)
    return torch.from_numpy(rows.astype(np.int32))
