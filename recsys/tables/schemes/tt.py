"""Tensor train: a vector is the product of three small cores, chosen by the digits of its id."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, sqrt
from typing import Any

from torch import Tensor

from recsys.tables.blocks import as_lists, bounded_rows
from recsys.tables.budget import largest_size
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import INIT_BOUND, Lookup, PhysicalTable, Scheme

_NUM_CORES = 3


class TTScheme(Scheme):
    """Three physical tables; the id in mixed radix (i, j, k) reads one row of each.

    With V <= n1 n2 n3 ids and D = d1 d2 d3, the rows are matrices of (d1, r), (r, d2, r) and
    (r, d3), whose product has D numbers. The rank r is the largest that the budget holds.

    Args:
        table: The logical table.

    Raises:
        FeatureConfigError: a reader's ids are unbounded, or rank 1 has no room.

    Source: Yin et al., TT-Rec (2021), https://arxiv.org/abs/2101.11714, section 3.

    Differs from the paper: cores start uniform, not normal without its centre; the product starts
    with the same variance.
    """

    combines_linearly = False

    def __init__(self, table: LogicalTable) -> None:
        own = bounded_rows(table)
        self.own = own
        self.radix = _radix(sum(block.size for block in own.values()))
        self.factors = _factors(table.dim)
        (n1, n2, n3), (d1, d2, d3) = self.radix, self.factors
        self.rank = rank = largest_size(
            table,
            numbers_of=lambda r: n1 * d1 * r + n2 * d2 * r * r + n3 * d3 * r,
            most=min(n1 * d1, n3 * d3),  # of more there is nothing left to express
        )
        # A number is a sum of rank² products of three: its variance is rank² times the cubed
        # variance of a core's numbers.
        bound = sqrt(3) * (INIT_BOUND**2 / 3 / rank**2) ** (1 / 6)
        widths = (d1 * rank, rank * d2 * rank, rank * d3)
        cores = tuple(
            PhysicalTable(f"{table.name}@{core}", num_rows, width, init_bound=bound)
            for core, num_rows, width in zip(range(_NUM_CORES), self.radix, widths, strict=True)
        )
        super().__init__(
            table,
            physical_tables=cores,
            lookups=tuple(
                Lookup(f"{r.key}@{core}", r.key, physical.name)
                for r in table.readers
                for core, physical in enumerate(cores)
            ),
            widths={r.key: table.dim for r in table.readers},
        )

    def row_meaning(self) -> dict[str, Any]:
        """First number of each feature's ids, and the radix."""
        return {"scheme": "tt", "blocks": as_lists(self.own), "radix": list(self.radix)}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Digits of the id, counted over all features."""
        _, n2, n3 = self.radix
        rows = {}
        for r in self.table.readers:
            number = ids[r.key] + self.own[r.namespace].first
            digits = number // (n2 * n3), number // n3 % n2, number % n3
            rows |= {f"{r.key}@{core}": digit for core, digit in enumerate(digits)}
        return rows

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The product of the cores."""
        (d1, d2, d3), rank = self.factors, self.rank
        found = {}
        for r in self.table.readers:
            first, second, third = (vectors[f"{r.key}@{core}"] for core in range(_NUM_CORES))
            left = first.view(-1, d1, rank) @ second.view(-1, rank, d2 * rank)
            whole = left.view(-1, d1 * d2, rank) @ third.view(-1, rank, d3)
            found[r.key] = whole.flatten(1)
        return found


def _radix(num_ids: int) -> tuple[int, int, int]:
    """Three near-equal numbers whose product is at least the number of ids."""
    first = max(1, ceil(round(num_ids ** (1 / 3), 9)))
    second = max(1, ceil(round(sqrt(num_ids / first), 9)))
    return first, second, ceil(num_ids / first / second)


def _factors(dim: int) -> tuple[int, int, int]:
    """Three factors of the width, as alike as may be."""
    found = [
        (a, b, dim // a // b)
        for a in range(1, dim + 1)
        if dim % a == 0
        for b in range(1, dim // a + 1)
        if dim // a % b == 0
    ]
    return min(found, key=lambda factors: (sum(factors), factors[1]))
