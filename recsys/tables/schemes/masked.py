"""A row for every id, of which a plan keeps some numbers; the others are zero at all times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from features.table_plan import TablePlan
from recsys.tables.budget import bytes_for, too_few_bytes, too_many_bytes
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import AfterStep, Part, PhysicalTable
from recsys.tables.schemes.full import FullScheme
from recsys.tables.sparse import SparseForm
from recsys.tables.staged import plan_of


class MaskedScheme(FullScheme):
    """The rows of a full table, in which all numbers are zero but those that the plan keeps.

    These start with the values that the plan has; the others are set to zero at the start, and
    after every step of the optimiser. The table has its full size in training. A bundle stores the
    values, and the plan, which it has beside them, says where they belong; both count as bytes.

    The gradients of masked numbers still count where an optimiser has a statistic for a whole row,
    which only row-wise Adagrad does.

    Args:
        table: The logical table, with its plan.

    Raises:
        FeatureConfigError: there is no plan, or a reader's ids are unbounded.
    """

    is_made_of_rows = False  # some of their numbers are read as zeros
    takes_half_rows = False

    def __init__(self, table: LogicalTable) -> None:
        super().__init__(table)
        plan = plan_of(table)
        self.digest = plan.digest
        [physical] = self.physical_tables
        self.form = SparseForm(physical.num_rows, physical.dim)
        kept = {name: torch.from_numpy(array) for name, array in plan.kept.items()}
        self.is_kept_VD = self.form.places(kept["columns"], kept["counts"])
        if physical.name in plan.first_values:
            first_VD = torch.zeros(physical.num_rows, physical.dim)
            first_VD[self.is_kept_VD] = torch.from_numpy(plan.first_values[physical.name])
            self.physical_tables = (replace(physical, first_values=first_VD),)

    def row_meaning(self) -> dict[str, Any]:
        """The first row of each feature, and the plan."""
        return super().row_meaning() | {"scheme": "masked", "plan": self.digest}

    def after_steps(self, parts: Sequence[Part]) -> AfterStep | None:
        """Mask."""
        masks = [(part.values, self._is_masked(part)) for part in parts]

        def mask_all(step: int) -> None:
            for values, is_masked in masks:
                values.masked_fill_(is_masked, 0.0)

        mask_all(0)
        return mask_all

    def packed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of the numbers that are kept."""
        return {self._name: weights[self._name][self.is_kept_VD]}

    def unpacked(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows with their zeros."""
        rows_VD = torch.zeros(self.form.num_rows, self.form.dim)
        rows_VD[self.is_kept_VD] = stored[self._name]
        return {self._name: rows_VD}

    @property
    def num_bytes(self) -> int:
        """Of the values and of the plan, as a bundle stores them."""
        return self.form.num_bytes(int(self.is_kept_VD.sum()))

    @property
    def _name(self) -> str:
        return self.physical_tables[0].name

    def _is_masked(self, part: Part) -> Tensor:
        num_rows, num_columns = part.values.shape
        rows = slice(part.first_row, part.first_row + num_rows)
        columns = slice(part.first_column, part.first_column + num_columns)
        return ~self.is_kept_VD[rows, columns].to(part.values.device)


def masked_plan(is_kept_VD: Tensor, table: PhysicalTable, *, seed: int) -> TablePlan:
    """The plan of a masked table that starts where the first training did.

    Args:
        is_kept_VD: Which numbers it keeps.
        table: Of the first training.
        seed: Of the first values.
    """
    columns, counts_V = SparseForm(table.num_rows, table.dim).pattern(is_kept_VD)
    first_VD = initial_rows(table, seed=seed)
    return TablePlan(
        scheme="masked",
        kept={"columns": columns.numpy(), "counts": counts_V.numpy()},
        first_values={table.name: first_VD[is_kept_VD].numpy()},
    )


def num_kept(table: LogicalTable, physical: PhysicalTable, *, at_least: int = 1) -> int:
    """How many numbers a masked table may keep.

    Args:
        table: Says how many bytes.
        physical: Of the first training.
        at_least: Numbers that are kept or not together.

    Raises:
        FeatureConfigError: fewer than that, or all of them.
    """
    form, allowed = SparseForm(physical.num_rows, physical.dim), bytes_for(table)
    if physical.num_bytes <= allowed:
        raise too_many_bytes(table, most=physical.num_bytes - 1)
    found = form.most_nonzeros(allowed)
    if found < at_least:
        raise too_few_bytes(table, least=form.num_bytes(at_least))
    return found
