"""A row for every id, in which most numbers become zero while they are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log
from typing import Any

import torch
from torch import Tensor

from features.errors import CheckpointMismatchError
from features.table_spec import DeepLightTable
from recsys.tables.budget import bytes_for, too_few_bytes
from recsys.tables.logical import LogicalTable
from recsys.tables.magnitudes import Magnitudes
from recsys.tables.scheme import AfterStep, BeforeView, Part
from recsys.tables.schemes.full import FullScheme
from recsys.tables.sparse import SparseForm

EVERY_STEPS = 10
_DAMPING = 0.99
_CLOSE = 1e-3
"""Part of a table by which the rate may fall short of its end before it jumps to it."""


class DeepLightScheme(FullScheme):
    """The rows of a full table; the smallest of all their numbers are set to zero again and again.

    After i steps they are the share R (1 - 0.99^(i / damping steps)) of the table, and R from where
    that is within a thousandth of the table: R leaves as many numbers as the budget stores, with
    their columns and the counts of rows. A number that was set to zero goes on being trained, and
    comes back if it has grown enough by the next time. A budget that holds all numbers prunes none.

    The rate is that of the table, whatever the ranks hold of it. Numbers equal to the largest that
    is pruned are pruned too, so a table may have a few zeros more, never fewer.

    A bundle would not know that a model of better validation, saved while most numbers were still
    there, has not met its budget. So validations before `settled_after` choose no checkpoint and
    stop no training, and a checkpoint from before it can be continued but not exported.

    Args:
        table: The logical table.
        spec: Its rows or budget, and pace.

    Raises:
        FeatureConfigError: a reader's ids are unbounded, or there is no room for a single number.

    Source: Deng et al., DeepLight (2021), https://arxiv.org/abs/2002.06987, section 4.3 and
    algorithm 1; every ten steps and within a thousandth as in Hetu (2024),
    https://arxiv.org/abs/2311.15578.

    Differs from the paper: tables alone are pruned, no other weights; and before a validation or a
    checkpoint they are pruned out of turn, so that what is evaluated is what is stored.
    """

    device_of: Tensor

    is_made_of_rows = False  # some of their numbers are read as zeros
    takes_half_rows = False

    def __init__(self, table: LogicalTable, *, spec: DeepLightTable) -> None:
        super().__init__(table)
        [physical] = self.physical_tables
        self.form = SparseForm(physical.num_rows, physical.dim)
        self.num_numbers = physical.num_rows * physical.dim
        allowed = bytes_for(table)
        self.stores_all = physical.num_bytes <= allowed
        self.num_kept = self.num_numbers if self.stores_all else self.form.most_nonzeros(allowed)
        if self.num_kept < 1:
            raise too_few_bytes(table, least=self.form.num_bytes(1))
        self.damping_steps = spec.damping_steps
        self._pruned_share = 0.0
        self.register_buffer("device_of", torch.zeros(0), persistent=False)

    def row_meaning(self) -> dict[str, Any]:
        """The first row of each feature."""
        return super().row_meaning() | {"scheme": "deeplight"}

    @property
    def settled_after(self) -> int:
        """Steps after which the budget is met."""
        num_pruned = self.num_numbers - self.num_kept
        close = _CLOSE * self.num_numbers
        if num_pruned <= close:
            return 0
        return ceil(self.damping_steps * log(close / num_pruned) / log(_DAMPING))

    def num_pruned(self, num_steps: int) -> int:
        """How many numbers are to be zero.

        Args:
            num_steps: Steps taken.
        """
        at_the_end = self.num_numbers - self.num_kept
        if num_steps >= self.settled_after:
            return at_the_end
        return floor(at_the_end * (1 - _DAMPING ** (num_steps / self.damping_steps)))

    def after_steps(self, parts: Sequence[Part]) -> AfterStep | None:
        """Prune every tenth time."""
        prune = self.before_views(parts)

        def prune_in_turn(step: int) -> None:
            if (step + 1) % EVERY_STEPS == 0:
                prune(step + 1)

        return prune_in_turn

    def before_views(self, parts: Sequence[Part]) -> BeforeView:
        """Prune."""
        magnitudes = Magnitudes(
            [part.values for part in parts],
            device=self.device_of.device,
            num_numbers=self.num_numbers,
        )

        def prune(num_steps: int) -> None:
            magnitudes.zero_smallest(self.num_pruned(num_steps))
            self._pruned_share = self.num_pruned(num_steps) / self.num_numbers

        return prune

    def gauges(self) -> dict[str, Tensor]:
        """The share of numbers that has been pruned."""
        return {"pruned": torch.tensor(self._pruned_share, device=self.device_of.device)}

    def packed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The numbers that are not zero, and where they are.

        Raises:
            CheckpointMismatchError: they are more than the budget stores.
        """
        if self.stores_all:
            return super().packed(weights)
        rows_VD = weights[self._name]
        num_nonzeros = int(rows_VD.count_nonzero())
        if num_nonzeros > self.num_kept:
            raise CheckpointMismatchError(
                f"tables.{self.table.name}: does not meet its budget yet, got {num_nonzeros} "
                f"numbers other than zero; allowed {self.num_kept}, which training comes down to "
                f"in {self.settled_after} steps; go on training, or lower damping_steps"
            )
        return self.form.pack(rows_VD, name=self._name)

    def unpacked(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows with their zeros."""
        if self.stores_all:
            return super().unpacked(stored)
        return {self._name: self.form.unpack(stored, name=self._name)}

    @property
    def num_bytes(self) -> int:
        """Of what a bundle stores when the budget is met."""
        return super().num_bytes if self.stores_all else self.form.num_bytes(self.num_kept)

    @property
    def _name(self) -> str:
        return self.physical_tables[0].name
