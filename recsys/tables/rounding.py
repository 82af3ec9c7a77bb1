"""Training in low precision: after each step, what the optimiser changed goes back to the grid."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recsys.tables.grid import Grid
from recsys.tables.hashing import salt
from recsys.tables.scheme import Part

LEARNING_RATE = 2e-5
"""Of steps, and the least of them."""
_EPS = 1e-10
_NUMBERS_PER_CHUNK = 1 << 22


class Rounding:
    """Keeps a rank's part of a table on its grid; a call does it after a step of the optimiser.

    Rows that the optimiser moved are rounded at random, by draws that are a function of seed,
    table, number of the step, row and column. Where steps are learned they come first, see
    `step_gradients`, by Adagrad.

    Args:
        part: The part; all of its numbers are brought to the grid at once.
        grid: Of the table.
        seed: Of the draws.
    """

    def __init__(self, part: Part, *, grid: Grid, seed: int) -> None:
        self.part, self.grid, self.seed = part, grid, seed
        width = min(grid.width, part.values.shape[1])
        self.values_VD = part.values[:, :width]
        with torch.no_grad():
            for rows in self._chunks():
                steps = grid.steps(part.values[rows])
                self.values_VD[rows] = grid.nearest(self.values_VD[rows], steps) * steps
            if (
                grid.is_learned
            ):  # what a step is learned from, and a decay of weights must not touch
                steps_V1 = grid.steps(part.values)
                self.codes_VD = grid.nearest(self.values_VD, steps_V1).to(grid.dtype)
                self.own_V2 = part.values[:, width : width + 2].clone()

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Round.

        Args:
            step: Steps of the optimiser before this one.
        """
        start = salt("rounding", self.seed, self.part.table.name, step)
        for rows in self._chunks():
            before_RD = self._before(rows)
            moved_M = (self.values_VD[rows] != before_RD).any(1).nonzero().squeeze(1)
            if len(moved_M):
                self._round(moved_M + rows.start, before_RD[moved_M], start)

    def _before(self, rows: slice) -> Tensor:
        """Values that the step began with.

        With a fixed step, of rows that were moved: values that are not those they have now.
        """
        if self.grid.is_learned:
            own_R2 = self.own_V2[rows]
            self.part.values[rows, self.grid.width : self.grid.width + 2] = own_R2
            return self.codes_VD[rows] * own_R2[:, :1]
        steps = self.grid.steps(self.part.values[rows])
        return self.grid.nearest(self.values_VD[rows], steps) * steps

    def _round(self, rows_M: Tensor, before_MD: Tensor, start: int) -> None:
        values_MD = self.values_VD[rows_M]
        if self.grid.is_learned:
            self._learn(rows_M, values_MD - before_MD, values_MD)
        steps = self.grid.steps(self.part.values[rows_M])
        codes_MD = self.grid.draw(values_MD, steps, self._counters(rows_M) + start)
        self.values_VD[rows_M] = codes_MD * steps
        if self.grid.is_learned:
            self.codes_VD[rows_M] = codes_MD.to(self.grid.dtype)

    def _learn(self, rows_M: Tensor, moves_MD: Tensor, values_MD: Tensor) -> None:
        steps_M1, squares_M1 = self.own_V2[rows_M].split(1, dim=1)
        gradients_M1 = step_gradients(moves_MD, values_MD, steps_M1, grid=self.grid)
        squares_M1 = squares_M1 + gradients_M1**2
        steps_M1 = steps_M1 - LEARNING_RATE * gradients_M1 / (squares_M1.sqrt() + _EPS)
        steps_M1 = steps_M1.clamp(min=LEARNING_RATE)
        self.own_V2[rows_M] = torch.cat([steps_M1, squares_M1], dim=1)
        self.part.values[rows_M, self.grid.width : self.grid.width + 2] = self.own_V2[rows_M]

    def _counters(self, rows_M: Tensor) -> Tensor:
        """A number for each place of the table, whatever the parts."""
        first = self.part.first_column
        columns_D = torch.arange(
            first, first + self.values_VD.shape[1], device=self.values_VD.device
        )
        return (rows_M + self.part.first_row)[:, None] * self.part.table.dim + columns_D

    def _chunks(self) -> Iterator[slice]:
        num_rows, width = self.part.values.shape
        size = max(1, _NUMBERS_PER_CHUNK // max(1, width))
        for low in range(0, num_rows, size):
            yield slice(low, min(low + size, num_rows))


def step_gradients(moves_MD: Tensor, values_MD: Tensor, steps_M1: Tensor, *, grid: Grid) -> Tensor:
    """Gradients (M, 1) of the loss by the steps, but for a constant factor.

    That of a value e = s q(w / s), with the unrounded w held fixed, is q(w / s) - w / s by s, and
    the end of the range where w lies beyond it; times that of the loss by e, summed over the row.

    Args:
        moves_MD: What the optimiser added; minus the gradient of the loss by the values, but for
            the learning rate and what the optimiser makes of gradients.
        values_MD: What came of it, not rounded: w.
        steps_M1: s.
        grid: Of the values.

    Source: Esser et al., Learned Step Size Quantization (2020), https://arxiv.org/abs/1902.08153,
    equation 3.
    """
    scaled_MD = values_MD / steps_M1
    info = torch.iinfo(grid.dtype)
    is_beyond_MD = (scaled_MD >= info.max) | (scaled_MD <= info.min)
    slopes_MD = torch.where(is_beyond_MD, grid.clip(scaled_MD), scaled_MD.round() - scaled_MD)
    return -(moves_MD * slopes_MD).sum(1, keepdim=True)
