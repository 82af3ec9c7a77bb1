"""Random product quantisation: every chunk of a vector is a row of its own, chosen by a hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from features.table_spec import PQTable
from recsys.tables.blocks import as_lists, blocks
from recsys.tables.budget import rows_for
from recsys.tables.chunks import chunk_width
from recsys.tables.hashing import salt
from recsys.tables.logical import LogicalTable
from recsys.tables.readers import HashedRead, HashedReads
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme


class PQScheme(Scheme):
    """One physical table of narrow rows, a part of it for each chunk of the vector.

    Two ids share a vector only where they collide in every chunk.

    Args:
        table: The logical table.
        spec: Its rows or budget, and its chunks.

    Raises:
        FeatureConfigError: the chunks do not divide the width, or there is no room for a row.

    Source: Shi et al., Compositional Embeddings (2020), https://arxiv.org/abs/1909.02107, section
    4.1 with concatenation, under random hashes as Coleman et al. (2023) compare it.
    """

    def __init__(self, table: LogicalTable, *, spec: PQTable) -> None:
        width = chunk_width(table, spec.num_chunks, key="num_chunks")
        num_rows = rows_for(table)
        physical = PhysicalTable(table.name, num_rows=num_rows * spec.num_chunks, dim=width)
        chunks = [(r, chunk) for r in table.readers for chunk in range(spec.num_chunks)]
        super().__init__(
            table,
            physical_tables=(physical,),
            lookups=tuple(Lookup(f"{r.key}@{c}", r.key, physical.name) for r, c in chunks),
            widths={r.key: table.dim for r in table.readers},
        )
        self.spec = spec
        self.blocks = blocks(table, num_rows, multiplexed=spec.multiplexed)
        self.reads = HashedReads(
            [
                HashedRead(
                    f"{r.key}@{chunk}",
                    r.key,
                    salt("pq", spec.seed, r.salt_name, chunk),
                    replace(
                        self.blocks[r.namespace],
                        first=chunk * num_rows + self.blocks[r.namespace].first,
                    ),
                )
                for r, chunk in chunks
            ]
        )

    def row_meaning(self) -> dict[str, Any]:
        """Seed, chunks and blocks."""
        return {
            "scheme": "pq",
            "seed": self.spec.seed,
            "num_chunks": self.spec.num_chunks,
            "blocks": as_lists(self.blocks),
        }

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """First row of the chunk's block + hash(id; chunk) mod its rows."""
        return self.reads(ids)

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Concatenate the chunks."""
        return {
            r.key: torch.cat(
                [vectors[f"{r.key}@{chunk}"] for chunk in range(self.spec.num_chunks)], dim=1
            )
            for r in self.table.readers
        }
