"""Schemes whose training finds out what of a table is of use; a planned table comes after them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from features.errors import FeatureConfigError
from features.table_plan import TablePlan
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme


class StagedScheme(Scheme):
    """A scheme of a table's first training.

    Attributes:
        storage: Scheme of the planned table that comes next.
        takes: Checkpoint of the first training that the plan is made from.
        keeps_network: Whether the next training goes on from that checkpoint, where all else than
            the planned tables is concerned; else it starts anew with the same seed.
    """

    storage: ClassVar[str]
    takes: ClassVar[Literal["best", "last"]] = "best"
    keeps_network: ClassVar[bool] = False

    @abstractmethod
    def plan(self, weights: Mapping[str, Tensor]) -> TablePlan:
        """What is kept, and the values it starts from.

        Args:
            weights: Whole trained physical tables, by name.
        """

    @property
    def is_finished(self) -> bool:
        """Whether the first training has brought all that `plan` needs, the same on all ranks."""
        return False


class SearchedScheme(StagedScheme):
    """A scheme whose plan also needs widths that a search has found.

    Attributes:
        chosen: Width by feature, to be set by the search; until then the whole width each.
    """

    def __init__(
        self,
        table: LogicalTable,
        *,
        physical_tables: tuple[PhysicalTable, ...],
        lookups: tuple[Lookup, ...],
        widths: Mapping[str, int],
    ) -> None:
        super().__init__(table, physical_tables=physical_tables, lookups=lookups, widths=widths)
        self.chosen = dict.fromkeys(table.num_ids_per_namespace(), table.dim)

    @abstractmethod
    def num_kept(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Rows that are kept, by feature.

        Args:
            weights: Whole trained physical tables, by name.
        """


def have_finished(schemes: Iterable[nn.Module]) -> bool:
    """Whether those of a first training, of which there are some, all have what their plans need.

    Args:
        schemes: Of all tables.
    """
    staged = [scheme for scheme in schemes if isinstance(scheme, StagedScheme)]
    return bool(staged) and all(scheme.is_finished for scheme in staged)


def plan_of(table: LogicalTable) -> TablePlan:
    """The plan of a planned table.

    Raises:
        FeatureConfigError: nobody has read it.
    """
    if table.plan is None:
        raise FeatureConfigError(
            f"tables.{table.name}: a {table.spec.scheme} table needs its plan, got none; read the "
            f"feature file together with the plans beside it"
        )
    return table.plan
