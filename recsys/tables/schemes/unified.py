"""Feature multiplexing: one table serves every feature, each (feature, probe) with its own hash."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor

from features.errors import FeatureConfigError
from features.table_spec import UnifiedTable
from recsys.tables.blocks import Block
from recsys.tables.budget import rows_for
from recsys.tables.hashing import salt
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.readers import HashedRead, HashedReads
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme


class UnifiedScheme(Scheme):
    """All rows for all readers; a reader's vector is its probes' rows side by side.

    The salt is made of the feature's name, not of its place in the file, so that features may
    come and go without moving the others. With several physical tables, which all have the same
    size, the probes of all features take turns in them in the order of the file; there an edit of
    the file does move features.

    Args:
        table: The logical table.
        spec: Its rows or budget, its seed, and how many physical tables it is cut into.

    Raises:
        FeatureConfigError: there are more tables than probes.

    Source: Coleman et al., Unified Embedding (2023), https://arxiv.org/abs/2305.12102, section 3;
    taking turns: the UnifiedEmbedding layer of TensorFlow Recommenders.
    """

    is_made_of_rows = True

    def __init__(self, table: LogicalTable, *, spec: UnifiedTable) -> None:
        width = spec.num_tables * table.dim
        num_rows = rows_for(table, row_width=width)
        names = [table.name]
        if spec.num_tables > 1:
            names = [f"{table.name}@{number}" for number in range(spec.num_tables)]
        self.turns = _turns(table, num_tables=spec.num_tables)
        if len(self.turns) < spec.num_tables:
            raise FeatureConfigError(
                f"tables.{table.name}.num_tables: some of them would never be read, got "
                f"{spec.num_tables}; allowed at most {len(self.turns)}, the probes of all features"
            )
        probes = [(r, probe) for r in table.readers for probe in range(r.probes)]
        super().__init__(
            table,
            physical_tables=tuple(PhysicalTable(n, num_rows, table.dim) for n in names),
            lookups=tuple(
                Lookup(_name(r, probe), r.key, names[self.turns[r.namespace, probe]])
                for r, probe in probes
            ),
            widths={r.key: r.probes * table.dim for r in table.readers},
        )
        self.seed = spec.seed
        everywhere = Block(0, num_rows)
        self.reads = HashedReads(
            [
                HashedRead(
                    _name(r, probe),
                    r.key,
                    salt("unified", spec.seed, r.salt_name, probe),
                    everywhere,
                )
                for r, probe in probes
            ]
        )

    def row_meaning(self) -> dict[str, Any]:
        """The seed, and whose turn it is in which of several tables."""
        meaning: dict[str, Any] = {"scheme": "unified", "seed": self.seed}
        if len(self.physical_tables) > 1:
            meaning["turns"] = [[*probe, table] for probe, table in sorted(self.turns.items())]
        return meaning

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """hash(id; feature, probe) mod rows."""
        return self.reads(ids)

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Concatenate the probes."""
        return {r.key: _side_by_side(r, vectors) for r in self.table.readers}


def _turns(table: LogicalTable, *, num_tables: int) -> dict[tuple[str, int], int]:
    """Number of the physical table of each (feature, probe)."""
    turn, turns = count(), {}
    for reader in table.readers:
        for probe in range(reader.probes):
            if (reader.namespace, probe) not in turns:
                turns[reader.namespace, probe] = next(turn) % num_tables
    return turns


def _side_by_side(reader: Reader, vectors: Mapping[str, Tensor]) -> Tensor:
    if reader.probes == 1:
        return vectors[_name(reader, 0)]
    return torch.cat([vectors[_name(reader, p)] for p in range(reader.probes)], dim=1)


def _name(reader: Reader, probe: int) -> str:
    return reader.key if probe == 0 else f"{reader.key}@{probe}"
