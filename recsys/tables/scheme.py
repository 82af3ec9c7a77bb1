"""The scheme border: how a logical table is stored.

A scheme compiles a logical table to physical tables, turns ids into rows of them, and turns the
rows' vectors into one vector per id. Nothing else knows its inside; sharding, optimisers,
checkpoints and export see physical tables alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from recsys.tables.logical import LogicalTable

BYTES_PER_NUMBER = 4


@dataclass(frozen=True)
class PhysicalTable:
    """A matrix of trainable rows, as TorchRec stores it.

    Attributes:
        name: Unique among all tables of a model; an identifier.
        num_rows: V.
        dim: D.
        init_bound: Rows start uniform in plus/minus this.
    """

    name: str
    num_rows: int
    dim: int
    init_bound: float = 0.05  # Coleman et al. (2023): N(0, 1) costs 5 points of AUC on ML-1M

    @property
    def num_bytes(self) -> int:
        """Size of its weights."""
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


class Scheme(nn.Module, ABC):
    """How one logical table is stored.

    Attributes:
        table: The logical table.
        physical_tables: What is stored; their bytes and the scheme's own parameters together
            are what a byte budget counts.
        lookups: In the order `remap` gives them.
        widths: Width of the combined vector, by reader.
        combines_linearly: Whether pooling several ids may come before `combine`.
    """

    combines_linearly: ClassVar[bool] = True

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

    @abstractmethod
    def combine(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One vector per id by reader, from the looked-up vectors by lookup."""


def only(lookups: tuple[Lookup, ...], vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Combine for schemes with a single lookup per reader: the vector itself."""
    return {lookup.reader: vectors[lookup.name] for lookup in lookups}
