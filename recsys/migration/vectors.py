"""Whole vectors of old ids, whatever their scheme makes them of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.migration.matrix import Matrix, Readable
from recsys.migration.sources import rows_of
from recsys.tables.logical import Reader
from recsys.tables.scheme import Scheme


class Vectors:
    """Gives the vector of an id in place of a row.

    Args:
        scheme: The old one, with its own parameters as trained.
        reader: Whose ids.
        tables: Its physical tables, by name.
    """

    def __init__(self, scheme: Scheme, reader: Reader, tables: Mapping[str, Readable]) -> None:
        self.scheme = scheme.eval()
        self.reader = reader
        self.tables = tables

    @torch.no_grad()
    def rows(self, rows_S: NDArray[np.int64], columns: slice) -> Matrix:
        """Vectors of some ids, of some columns."""
        dims = {table.name: table.dim for table in self.scheme.physical_tables}
        found = rows_of(self.scheme, self.reader, rows_S)
        vectors = {}
        for lookup in self.scheme.lookups:
            rows = found.get(lookup.name, rows_S[:0])
            width = slice(0, dims[lookup.table])
            vectors[lookup.name] = torch.from_numpy(self.tables[lookup.table].rows(rows, width))
        nothing = torch.zeros(0, dtype=torch.int64)
        ids = {r.key: nothing for r in self.scheme.table.readers}
        ids[self.reader.key] = torch.from_numpy(np.ascontiguousarray(rows_S))
        combined = self.scheme.combine(vectors, ids)[self.reader.key]
        return combined[:, columns].float().numpy()
