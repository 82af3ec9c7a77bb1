"""Feature multiplexing: one table serves every feature, each (feature, probe) with its own hash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from features.spec import UnifiedTable
from recsys.tables.budget import rows_for
from recsys.tables.hashing import hash_to_rows, salt
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.readers import concatenate, spread
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme


class UnifiedScheme(Scheme):
    """One physical table for all readers; a reader's vector is its probes' rows side by side.

    The salt is made of the feature's name, not of its place in the file, so that features may
    come and go without moving the others.

    Args:
        table: The logical table.
        spec: Its rows or budget, and its seed.

    Source: Coleman et al., Unified Embedding (2023), https://arxiv.org/abs/2305.12102, section 3.
    """

    salts_R1: Tensor

    def __init__(self, table: LogicalTable, *, spec: UnifiedTable) -> None:
        physical = PhysicalTable(
            table.name, num_rows=rows_for(spec, dim=table.dim, name=table.name), dim=table.dim
        )
        super().__init__(
            table,
            physical_tables=(physical,),
            lookups=tuple(
                Lookup(_probe_name(r, probe), r.key, physical.name)
                for r in table.readers
                for probe in range(r.probes)
            ),
            widths={r.key: r.probes * table.dim for r in table.readers},
        )
        self.seed = spec.seed
        salts = [
            [salt("unified", spec.seed, r.namespace, probe)]
            for r in table.readers
            for probe in range(r.probes)
        ]
        self.register_buffer("salts_R1", torch.tensor(salts, dtype=torch.int64), persistent=False)

    def row_meaning(self) -> dict[str, Any]:
        """The seed; features come and go without moving the others."""
        return {"scheme": "unified", "seed": self.seed}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """hash(id; feature, probe) mod rows."""
        values, counts = concatenate(ids, [lookup.reader for lookup in self.lookups])
        (salts,) = spread(self.salts_R1, counts)
        rows = hash_to_rows(values, salts, self.physical_tables[0].num_rows)
        names = [lookup.name for lookup in self.lookups]
        return dict(zip(names, rows.split(counts), strict=True))

    def combine(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Concatenate the probes."""
        return {r.key: _concatenated_probes(r, vectors) for r in self.table.readers}


def _concatenated_probes(reader: Reader, vectors: Mapping[str, Tensor]) -> Tensor:
    if reader.probes == 1:
        return vectors[_probe_name(reader, 0)]
    return torch.cat([vectors[_probe_name(reader, p)] for p in range(reader.probes)], dim=1)


def _probe_name(reader: Reader, probe: int) -> str:
    return reader.key if probe == 0 else f"{reader.key}@{probe}"
