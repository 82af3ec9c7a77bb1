"""Numbers of few bits: whole multiples of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.tables.hashing import uniform_pm1

_STEP_BYTES = 4


@dataclass(frozen=True)
class Grid:
    """What the numbers of a table may be: codes of some bits, times a step.

    A row whose step is learned ends in two numbers of its own: the step, and the sum of the
    squares of its gradients.

    Attributes:
        width: Numbers of a row that lie on the grid.
        bits: 8 or 16.
        step: That of the table, or the first one of every row.
        is_learned: Whether every row has a step of its own.
    """

    width: int
    bits: int
    step: float
    is_learned: bool

    @property
    def row_width(self) -> int:
        """Numbers of a row in training, a multiple of 4 where there are a step's, for fbgemm."""
        return -(-(self.width + 2) // 4) * 4 if self.is_learned else self.width

    @property
    def dtype(self) -> torch.dtype:
        """Of codes."""
        return {8: torch.int8, 16: torch.int16}[self.bits]

    def num_bytes(self, num_rows: int) -> int:
        """Codes and steps."""
        num_steps = num_rows if self.is_learned else 1
        return num_rows * self.width * self.bits // 8 + num_steps * _STEP_BYTES

    def steps(self, rows_RW: Tensor) -> Tensor:
        """Steps (R, 1), or (1, 1) of a table that has but one."""
        if self.is_learned:
            return rows_RW[:, self.width : self.width + 1]
        return rows_RW.new_full((1, 1), self.step)

    def nearest(self, values: Tensor, steps: Tensor) -> Tensor:
        """Codes nearest to some values, as numbers of the values' type."""
        return self.clip((values / steps).round())

    def draw(self, values: Tensor, steps: Tensor, counters: Tensor) -> Tensor:
        """Codes below or above some values, at random so that they are right on average.

        Args:
            values: Numbers of rows.
            steps: Of the rows.
            counters: What the random numbers are a function of, one for each value.
        """
        uniform = (uniform_pm1(counters) + 1) / 2
        # Double: a code of 16 bits leaves a float no more than 8 bits of fraction.
        drawn = self.clip((values.double() / steps.double() + uniform).floor())
        nearest = self.nearest(values, steps)
        # The product was rounded: what lies on the grid may look as if it lay beside it.
        return torch.where(nearest * steps == values, nearest, drawn.to(values.dtype))

    def clip(self, codes: Tensor) -> Tensor:
        """Bring codes into the range of their bits."""
        info = torch.iinfo(self.dtype)
        return codes.clamp(info.min, info.max)

    def first_rows(self, rows_RW: Tensor, counters_RW: Tensor) -> Tensor:
        """Rows on the grid from rows anywhere; they may be a part of the columns."""
        values_RD = rows_RW[:, : self.width]
        steps = rows_RW.new_full((1, 1), self.step)
        found = torch.zeros_like(rows_RW)
        codes_RD = self.draw(values_RD, steps, counters_RW[:, : self.width])
        found[:, : self.width] = codes_RD * steps
        if self.is_learned:
            found[:, self.width] = self.step
        return found
