"""The scheme border: how a logical table is stored.

A scheme compiles a logical table to physical tables, turns ids into rows of them, and turns the
rows' vectors into one vector per id. Nothing else knows its inside; sharding, optimisers,
checkpoints and export see physical tables alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recsys.tables.grid import Grid
from recsys.tables.logical import LogicalTable

BYTES_PER_NUMBER = 4

INIT_BOUND = 0.05
"""The vector of an id starts with the variance of numbers uniform in plus/minus this, whatever the
scheme. Coleman et al. (2023): N(0, 1) costs 5 points of AUC on ML-1M."""

AfterStep = Callable[[int], None]
"""Called on every rank after a step of the optimiser, with the number of steps before it."""

BeforeView = Callable[[int], None]
"""Called on every rank before tables are evaluated or saved, with the number of steps so far."""


@dataclass(frozen=True)
class PhysicalTable:
    """A matrix of trainable rows, as TorchRec stores it.

    Attributes:
        name: Unique among all tables of a model; an identifier.
        num_rows: V.
        dim: D.
        init_bound: Rows start uniform in plus/minus this, around `init_mean`.
        init_mean: 0, or 1 for rows that others are multiplied with.
        grid: What its numbers may be. None: any.
        first_values: (V, D) that training begins with. None: they are drawn.
    """

    name: str
    num_rows: int
    dim: int
    init_bound: float = INIT_BOUND
    init_mean: float = 0.0
    grid: Grid | None = None
    first_values: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def num_bytes(self) -> int:
        """Size of its weights; those on a grid count as a bundle stores them."""
        if self.grid is not None:
            return self.grid.num_bytes(self.num_rows)
        return self.num_rows * self.dim * BYTES_PER_NUMBER


@dataclass(frozen=True)
class Lookup:
    """One read of a physical table on behalf of a reader.

    Attributes:
        name: Unique among all lookups of a model.
        reader: Key of the reader.
        table: Name of the physical table.
    """

    name: str
    reader: str
    table: str


@dataclass(frozen=True)
class Part:
    """What one rank holds of a physical table: all of it, or the rows and columns of a shard.

    Attributes:
        table: The table.
        values: Its numbers, to be changed in place.
        first_row: Place of the part in the table.
        first_column: Place of the part in the table.
    """

    table: PhysicalTable
    values: Tensor
    first_row: int
    first_column: int


class Scheme(nn.Module, ABC):
    """How one logical table is stored.

    Besides the physical tables it may have parameters of its own; these are small, replicated, and
    trained by the dense optimiser.

    Attributes:
        table: The logical table.
        physical_tables: What is stored.
        lookups: In the order `remap` gives them.
        widths: Width of the combined vector, by reader.
        combines_linearly: Whether pooling several ids may come before `combine`, which then gets
            pooled vectors and must not look at the ids.
        is_made_of_rows: Whether the vector of an id is its rows side by side, in the order of the
            lookups, and nothing else belongs to it; then rows can follow their ids elsewhere.
        takes_half_rows: Whether sharded rows may have 16 bits in training; not where the scheme
            itself compares, prunes or writes them.
        remap_is_fixed: Whether `remap` gives the same rows throughout a training; then rows are
            found for the next step while one is still taken.
    """

    combines_linearly: bool = True
    is_made_of_rows: ClassVar[bool] = False
    takes_half_rows: ClassVar[bool] = True
    remap_is_fixed: ClassVar[bool] = True

    def __init__(
        self,
        table: LogicalTable,
        *,
        physical_tables: tuple[PhysicalTable, ...],
        lookups: tuple[Lookup, ...],
        widths: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.table = table
        self.physical_tables = physical_tables
        self.lookups = lookups
        self.widths = dict(widths)

    @abstractmethod
    def row_meaning(self) -> dict[str, Any]:
        """What decides which rows an id reaches, as JSON: where it differs, rows are of no use."""

    @abstractmethod
    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows by lookup, from ids by reader; both int64 and of the reader's length."""

    def has_rows(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whether ids have rows, by reader; where not, `combine` leaves out what `remap` gives."""
        return {key: torch.ones_like(of_reader).bool() for key, of_reader in ids.items()}

    @abstractmethod
    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """One vector per id by reader.

        Args:
            vectors: Looked up, by lookup.
            ids: By reader, as `remap` got them.
        """

    def penalty(self) -> Tensor | None:
        """A scalar to add to the loss of a training step; None: nothing."""
        return None

    def thresholds(self) -> tuple[nn.Parameter, ...]:
        """Own parameters that are no numbers of vectors: without any weight decay."""
        return ()

    def updated_by_itself(self) -> tuple[nn.Parameter, ...]:
        """Own parameters that the dense optimiser leaves out.

        What `after_steps` gives moves them by their gradients, the same on all ranks by then, and
        clears these.
        """
        return ()

    def after_steps(self, parts: Sequence[Part]) -> AfterStep | None:
        """What to do after every step of the optimiser; None: nothing.

        Args:
            parts: Of its physical tables, with the values that training starts or goes on from.
        """
        return None

    def served(self, weights: Mapping[str, Tensor]) -> tuple[Scheme, dict[str, Tensor]]:
        """The scheme that a bundle has in its place, and its whole physical tables by name.

        It may read what training has left, and nothing else. `build_scheme` makes an empty one.

        Args:
            weights: Whole physical tables by name.
        """
        return self, dict(weights)

    def before_views(self, parts: Sequence[Part]) -> BeforeView | None:
        """What to do before tables are evaluated or saved in training, besides; None: nothing.

        Args:
            parts: As `after_steps` gets them.
        """
        return None

    @property
    def settled_after(self) -> int:
        """Steps after which the tables are what the feature file asks for.

        Validations before that choose no checkpoint and stop no training.
        """
        return 0

    def gauges(self) -> dict[str, Tensor]:
        """Scalars to log at each validation, the same on all ranks, by name."""
        return {}

    def packed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a bundle stores, by a name of its own each, from whole physical tables by name."""
        return dict(weights)

    def unpacked(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole physical tables by name, from what a bundle stores of all schemes."""
        return {table.name: stored[table.name] for table in self.physical_tables}

    @property
    def num_bytes(self) -> int:
        """All that training changes: physical tables and parameters of its own."""
        own = sum(parameter.numel() for parameter in self.parameters())
        return sum(table.num_bytes for table in self.physical_tables) + own * BYTES_PER_NUMBER

    @property
    def num_training_bytes(self) -> int:
        """Of all numbers that training holds; more than `num_bytes` where a bundle stores less."""
        of_tables = sum(table.num_rows * table.dim for table in self.physical_tables)
        own = sum(parameter.numel() for parameter in self.parameters())
        return (of_tables + own) * BYTES_PER_NUMBER

    @property
    def index_bytes(self) -> int:
        """Integers beside what is trained that say where ids go; 0 where arithmetic says it."""
        buffers = (t for t in self.state_dict().values() if t.dim() and not t.is_floating_point())
        return sum(buffer.nbytes for buffer in buffers)


def only(lookups: tuple[Lookup, ...], vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Combine for schemes with a single lookup per reader: the vector itself."""
    return {lookup.reader: vectors[lookup.name] for lookup in lookups}
