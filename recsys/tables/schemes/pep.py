"""A first training that learns below which magnitudes the numbers of a table are of no use."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from features.errors import FeatureConfigError
from features.table_plan import TablePlan
from features.table_spec import PepTable
from recsys.tables.logical import LogicalTable
from recsys.tables.magnitudes import over_ranks
from recsys.tables.scheme import AfterStep, Part, PhysicalTable
from recsys.tables.schemes.full import FullScheme
from recsys.tables.schemes.masked import masked_plan, num_kept
from recsys.tables.staged import StagedScheme

_log = logging.getLogger(__name__)
EVERY_STEPS = 10


class PepScheme(FullScheme, StagedScheme):
    """The rows of a full table, shrunk: e = sign(v) relu(|v| - sigmoid(s)), with s trained too.

    The first training is over when no more numbers are left than the budget stores; looked at
    every tenth step. Those that are left then are trained again from their first values. Where
    thresholds have not got there in time, the largest of what they leave are kept, with a warning.

    Args:
        table: The logical table.
        spec: Its budget, and which numbers have a threshold in common.
        seed: Of the table's first values.

    Raises:
        FeatureConfigError: a reader's ids are unbounded, the budget holds no number, or all, or
            thresholds leave no more than it holds from the start.

    Source: Liu et al., PEP (2021), https://arxiv.org/abs/2101.07577, section 3.

    Differs from the paper: a feature is a column here, so all its ids have their thresholds in
    common, where the paper's are those of an id; s starts at -15 and not at -150, whose gradient a
    float cannot hold; and it has a weight decay of its own, as the authors' optimiser gave it,
    without which nothing drives the thresholds up.
    """

    storage: ClassVar[str] = "masked"
    takes: ClassVar[Literal["best", "last"]] = "last"
    combines_linearly = False
    is_made_of_rows = False  # they are shrunk
    takes_half_rows = False

    def __init__(self, table: LogicalTable, *, spec: PepTable, seed: int) -> None:
        super().__init__(table)
        self.seed, self.decay = seed, spec.decay
        [physical] = self.physical_tables
        self.num_kept = num_kept(table, physical)
        _check_start(spec.start, table=physical, num_stored=self.num_kept)
        self.places = {name: place for place, name in enumerate(self.own)}
        shape = {
            "table": (1, 1),
            "feature": (len(self.own), 1),
            "dimension": (1, table.dim),
            "feature_and_dimension": (len(self.own), table.dim),
        }[spec.per]
        self.logits_FD = nn.Parameter(torch.full(shape, spec.start))
        self._num_left = physical.num_rows * physical.dim

    def row_meaning(self) -> dict[str, Any]:
        """The first row of each feature."""
        return super().row_meaning() | {"scheme": "pep"}

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The shrunk row."""
        return {
            r.key: vectors[r.key].sign()
            * (vectors[r.key].abs() - self._threshold(r.namespace)).relu()
            for r in self.table.readers
        }

    def thresholds(self) -> tuple[nn.Parameter, ...]:
        """The logits, which have a weight decay of their own."""
        return (self.logits_FD,)

    def penalty(self) -> Tensor:
        """Half of the squares of s, times the weight decay."""
        return self.logits_FD.square().sum() * (self.decay / 2)

    def after_steps(self, parts: Sequence[Part]) -> AfterStep:
        """See now, and every tenth time, whether what is left meets the budget."""
        self._num_left = self._count_left(parts)

        def look(step: int) -> None:
            if (step + 1) % EVERY_STEPS == 0:
                self._num_left = self._count_left(parts)

        return look

    @property
    def is_finished(self) -> bool:
        """Whether what is left meets the budget."""
        return self._num_left <= self.num_kept

    def gauges(self) -> dict[str, Tensor]:
        """Numbers that thresholds leave, for one that the budget stores."""
        return {"left": torch.tensor(self._num_left / self.num_kept, device=self.logits_FD.device)}

    @torch.no_grad()
    def plan(self, weights: Mapping[str, Tensor]) -> TablePlan:
        """What is left, or the largest of it."""
        [physical] = self.physical_tables
        weight_VD = weights[physical.name]
        whole = Part(physical, weight_VD, 0, 0)
        shrunk = [values.abs() - threshold for values, threshold in self._blocks(whole)]
        shrunk_VD = torch.cat(shrunk)
        is_kept_VD = shrunk_VD > 0
        num_left = int(is_kept_VD.sum())
        if num_left > self.num_kept:
            _log.warning(
                "tables.%s: thresholds leave %d numbers, where the budget stores %d: the largest "
                "are kept; for thresholds to do it, train longer, or raise decay or start",
                self.table.name,
                num_left,
                self.num_kept,
            )
            is_kept_VD = torch.zeros_like(is_kept_VD)
            is_kept_VD.view(-1)[shrunk_VD.flatten().topk(self.num_kept).indices] = True
        return masked_plan(is_kept_VD, physical, seed=self.seed)

    def _threshold(self, feature: str) -> Tensor:
        """Of the numbers of a feature: one, or D."""
        place = self.places[feature] if len(self.logits_FD) > 1 else 0
        return self.logits_FD[place].sigmoid()

    def _blocks(self, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of each feature that a part has, and their thresholds."""
        columns = slice(part.first_column, part.first_column + part.values.shape[1])
        for name, block in self.own.items():
            first = max(0, block.first - part.first_row)
            last = max(0, block.first + block.size - part.first_row)
            threshold = self._threshold(name)
            yield part.values[first:last], threshold[columns] if len(threshold) > 1 else threshold

    @torch.no_grad()
    def _count_left(self, parts: Sequence[Part]) -> int:
        """Numbers of the whole table above their thresholds."""
        blocks = [found for part in parts for found in self._blocks(part)]
        left = sum(
            ((values.abs() > limit).sum() for values, limit in blocks),
            start=torch.zeros((), dtype=torch.int64, device=self.logits_FD.device),
        )
        held = torch.full_like(left, sum(part.values.numel() for part in parts))
        left, held = over_ranks(torch.stack([left, held])).tolist()
        [physical] = self.physical_tables
        # Of a replicated table each rank counts all numbers.
        return left * physical.num_rows * physical.dim // held


def _check_start(start: float, *, table: PhysicalTable, num_stored: int) -> None:
    """Refuse thresholds that leave nothing to be found by training."""
    share = num_stored / (table.num_rows * table.dim)
    # First values are uniform: the share above a threshold falls evenly with it.
    threshold = table.init_bound * (1 - share)
    highest = math.log(threshold / (1 - threshold))
    if start >= highest:
        raise FeatureConfigError(
            f"tables.{table.name}.start: thresholds leave no more than the budget stores before "
            f"any training, got {start}; allowed below {highest:.2f}; lower it"
        )
