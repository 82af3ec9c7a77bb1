"""A first training that learns which dimensions ids of like frequency have a use for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from features.errors import RunConfigError
from features.table_plan import TablePlan
from features.table_spec import AutoSrhTable
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import AfterStep, Part
from recsys.tables.schemes.full import FullScheme
from recsys.tables.schemes.masked import masked_plan, num_kept
from recsys.tables.staged import StagedScheme

START = 0.5
"""Of factors."""


class AutoSrhScheme(FullScheme, StagedScheme):
    """The rows of a full table, each number times the factor of its dimension and group of ids.

    The ids of a feature are cut into groups of equally many; those of a vocabulary are in order of
    falling frequency, so that a group has ids of like frequency. Factors start at 1/2, before rows
    that are twice as long for it, and move against their gradient, by one length for all factors of
    the table together, within 0 and 1.
    Then dimensions of groups are kept from the largest factor on, those that the budget has room
    for, and trained again from their first values, without factors.

    Args:
        table: The logical table.
        spec: Its budget, groups, and rates of the factors.
        seed: Of the table's first values.

    Raises:
        FeatureConfigError: a reader's ids are unbounded, or the budget holds no group, or all.

    Source: Kong et al., AutoSrh (2022), section 4; groups, rates and penalty as in Hetu (2024),
    https://arxiv.org/abs/2311.15578.

    Differs from the paper: factors are trained with the rows, by the same training batches, where
    the paper takes validation batches for them after a training without factors. On those, most
    factors want to grow: starting at 1, as the paper's do, they would all stay there. And what is
    kept starts from its first values, not from trained ones.
    """

    storage: ClassVar[str] = "masked"
    combines_linearly = False
    is_made_of_rows = False  # they are multiplied by factors
    takes_half_rows = False

    def __init__(self, table: LogicalTable, *, spec: AutoSrhTable, seed: int) -> None:
        super().__init__(table)
        self.seed, self.l1, self.lr = seed, spec.l1, spec.lr
        self.num_groups = spec.num_groups
        self.places = {name: place for place, name in enumerate(self.own)}
        sizes = self._groups_of_rows().bincount()
        smallest = int(sizes[sizes > 0].min())
        self.num_kept = num_kept(table, self.physical_tables[0], at_least=smallest)
        [self.retrained] = self.physical_tables
        bound = self.retrained.init_bound / START
        self.physical_tables = (replace(self.retrained, init_bound=bound),)
        num_groups = len(self.own) * spec.num_groups
        self.factors_GD = nn.Parameter(torch.full((num_groups, table.dim), START))

    def row_meaning(self) -> dict[str, Any]:
        """The first row of each feature."""
        return super().row_meaning() | {"scheme": "autosrh", "num_groups": self.num_groups}

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The row times its factors."""
        return {
            r.key: vectors[r.key]
            * F.embedding(self._groups(r.namespace, ids[r.key]), self.factors_GD)
            for r in self.table.readers
        }

    def penalty(self) -> Tensor:
        """The sum of the factors, none of which is below 0, times its weight."""
        return self.factors_GD.sum() * self.l1

    def updated_by_itself(self) -> tuple[nn.Parameter, ...]:
        """The factors."""
        return (self.factors_GD,)

    def after_steps(self, parts: Sequence[Part]) -> AfterStep:
        """Move the factors."""

        @torch.no_grad()
        def move(step: int) -> None:
            gradient_GD = self.factors_GD.grad
            assert gradient_GD is not None, "the penalty has one"
            length = gradient_GD.norm().clamp(min=torch.finfo(gradient_GD.dtype).tiny)
            self.factors_GD.sub_(gradient_GD * (self.lr / length)).clamp_(0, 1)
            self.factors_GD.grad = None

        return move

    @torch.no_grad()
    def plan(self, weights: Mapping[str, Tensor]) -> TablePlan:
        """Dimensions of groups, from the largest factor on, that there is room for.

        Raises:
            RunConfigError: there is none.
        """
        groups_V = self._groups_of_rows()
        factors_GD = self.factors_GD.cpu()
        sizes_G = torch.bincount(groups_V, minlength=len(factors_GD))
        is_kept_GD = torch.zeros_like(factors_GD, dtype=torch.bool)
        room = self.num_kept
        for place in factors_GD.flatten().argsort(descending=True, stable=True).tolist():
            group, dimension = divmod(place, self.table.dim)
            size = int(sizes_G[group])
            if size <= room and factors_GD[group, dimension] > 0:
                is_kept_GD[group, dimension] = True
                room -= size
        if not is_kept_GD.any():
            raise RunConfigError(
                f"tables.{self.table.name}: nothing would be kept, got no factor above 0 of a "
                f"group that the budget has room for; lower l1 or lr, or raise the budget"
            )
        return masked_plan(is_kept_GD[groups_V], self.retrained, seed=self.seed)

    def _groups_of_rows(self) -> Tensor:
        ranges = {name: torch.arange(block.size) for name, block in self.own.items()}
        return torch.cat([self._groups(name, ids) for name, ids in ranges.items()])

    def _groups(self, feature: str, ids: Tensor) -> Tensor:
        """Rows of the factors, of ids of a feature."""
        size = self.own[feature].size
        return self.places[feature] * self.num_groups + ids * self.num_groups // size
