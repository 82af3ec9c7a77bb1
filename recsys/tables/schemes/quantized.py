"""A row for every id, in numbers of 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from features.table_spec import QuantizedTable
from recsys.tables.grid import Grid
from recsys.tables.logical import LogicalTable
from recsys.tables.rounding import Rounding
from recsys.tables.scheme import AfterStep, Part
from recsys.tables.schemes.full import FullScheme


class QuantizedScheme(FullScheme):
    """The rows of a full table, whose numbers are whole multiples of a step at all times.

    The numbers are floats in training, since the fused kernels know no others, and integers in a
    bundle: no vector that is ever read needs more bits than that.

    Args:
        table: The logical table.
        spec: Its bits and steps.
        seed: Of the rounding.

    Raises:
        FeatureConfigError: a reader's ids are unbounded.

    Source: Li et al., ALPT (2023), https://arxiv.org/abs/2212.05735, algorithm 1; with one step for
    the table, INT8/16 of Hetu (2024), https://arxiv.org/abs/2311.15578.

    Differs from ALPT: the gradient of a row's step comes from the same backward pass as that of the
    row, where ALPT makes a second one with the new values, rounded to the nearest; it is the same
    as long as no number moves by half a step. It is taken from what the row was moved by, so the
    optimiser of the tables has scaled it. Steps follow Adagrad, which a constant factor of the
    gradients does not change: ALPT's 1 / sqrt(B D (2^(b-1) - 1)) is left out.
    """

    is_made_of_rows = False  # a row has its step beside the numbers
    takes_half_rows = False

    def __init__(self, table: LogicalTable, *, spec: QuantizedTable, seed: int) -> None:
        self.grid = Grid(table.dim, spec.bits, spec.step_size, is_learned=spec.step == "learned")
        super().__init__(table, grid=self.grid)
        self.seed = seed

    def row_meaning(self) -> dict[str, Any]:
        """The first row of each feature."""
        return super().row_meaning() | {"scheme": "quantized"}

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The row without its step."""
        return {x.reader: vectors[x.name][:, : self.grid.width] for x in self.lookups}

    def after_steps(self, parts: Sequence[Part]) -> AfterStep | None:
        """Round."""
        roundings = [Rounding(part, grid=self.grid, seed=self.seed) for part in parts]

        def round_all(step: int) -> None:
            for rounding in roundings:
                rounding(step)

        return round_all

    def packed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Codes (V, D) and steps (V, 1) or (1, 1)."""
        rows_VW = weights[self._name]
        steps = self.grid.steps(rows_VW)
        codes_VD = self.grid.nearest(rows_VW[:, : self.grid.width], steps)
        return {self._name: codes_VD.to(self.grid.dtype), self._steps_name: steps}

    def unpacked(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows as in training, but for what the steps are learned by."""
        steps = stored[self._steps_name]
        values_VD = stored[self._name] * steps
        if not self.grid.is_learned:
            return {self._name: values_VD}
        rows_VW = pad(values_VD, (0, self.grid.row_width - self.grid.width))
        rows_VW[:, self.grid.width] = steps[:, 0]
        return {self._name: rows_VW}

    @property
    def _name(self) -> str:
        return self.physical_tables[0].name

    @property
    def _steps_name(self) -> str:
        return f"{self._name}@steps"
