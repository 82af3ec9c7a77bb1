"""Mixed dimensions: features with many ids have narrower rows, brought to one width."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from torch import Tensor, nn

from recsys.tables.blocks import Block, bounded_rows
from recsys.tables.budget import numbers_for, too_small
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme

_STEPS = 60
_ROW_STEP = 4


class MixedDimScheme(Scheme):
    """A physical table per feature, of width D (n / n_min)^-alpha, and a projection to D.

    Alpha is the smallest that the budget holds; what rounding down leaves goes to the features
    with the fewest ids first.

    Args:
        table: The logical table.

    Raises:
        FeatureConfigError: a reader's ids are unbounded, or width 1 has no room.

    Source: Ginart et al., Mixed Dimension Embeddings (2021), https://arxiv.org/abs/1909.11810,
    algorithm 1.

    Differs from the paper: widths from 4 on are multiples of 4, which fbgemm asks for, not powers
    of two, so that more of the budget is used.
    """

    def __init__(self, table: LogicalTable) -> None:
        own = bounded_rows(table)
        self.own = {name: Block(0, block.size) for name, block in own.items()}
        counts = {name: block.size for name, block in own.items()}
        # By first names: they break ties, which renaming a feature must not turn round.
        first_names = table.salt_names()
        of_first_names = _dims(
            {first_names[name]: count for name, count in counts.items()},
            dim=table.dim,
            allowed=numbers_for(table),
        )
        if of_first_names is None:
            least = sum(_numbers(count, 1, table.dim) for count in counts.values())
            raise too_small(table, least=least)
        dims = {name: of_first_names[first_names[name]] for name in counts}
        super().__init__(
            table,
            physical_tables=tuple(
                PhysicalTable(f"{table.name}@{name}", counts[name], dim)
                for name, dim in dims.items()
            ),
            lookups=tuple(
                Lookup(r.key, r.key, f"{table.name}@{r.namespace}") for r in table.readers
            ),
            widths={r.key: table.dim for r in table.readers},
        )
        self.projections = nn.ModuleDict(
            {
                name: nn.Linear(dim, table.dim, bias=False)
                for name, dim in dims.items()
                if dim < table.dim
            }
        )
        for name, projection in self.projections.items():
            bound = sqrt(3 / dims[name])  # keeps the variance of the rows
            nn.init.uniform_(projection.weight, -bound, bound)  # pyright: ignore[reportArgumentType]

    def row_meaning(self) -> dict[str, Any]:
        """Ids of each feature."""
        counts = {name: block.size for name, block in self.own.items()}
        return {"scheme": "mixed_dim", "num_ids": counts}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The id itself."""
        return {r.key: ids[r.key] + self.own[r.namespace].first for r in self.table.readers}

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The row, projected where it is narrow."""
        found = {}
        for r in self.table.readers:
            is_narrow = r.namespace in self.projections
            row = vectors[r.key]
            found[r.key] = self.projections[r.namespace](row) if is_narrow else row
        return found


def _numbers(count: int, width: int, dim: int) -> int:
    return count * width + (width * dim if width < dim else 0)


def _width(wanted: float, dim: int) -> int:
    """The nearest width below that a row may have."""
    width = max(1, int(wanted))
    return width if width < _ROW_STEP or width == dim else width - width % _ROW_STEP


def _next_width(width: int, dim: int) -> int:
    following = width + 1 if width < _ROW_STEP else width + _ROW_STEP
    return min(following, dim)


def _dims(counts: Mapping[str, int], *, dim: int, allowed: int) -> dict[str, int] | None:
    """Width by feature; None where not even width 1 has room."""

    def dims_at(alpha: float) -> dict[str, int]:
        fewest = min(counts.values())
        return {n: _width(dim * (count / fewest) ** -alpha, dim) for n, count in counts.items()}

    def total(dims: Mapping[str, int]) -> int:
        return sum(_numbers(counts[name], width, dim) for name, width in dims.items())

    narrowest = dict.fromkeys(counts, 1)
    if total(narrowest) > allowed:
        return None
    low, high = 0.0, 64.0
    if total(dims_at(low)) <= allowed:
        return dims_at(low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if total(dims_at(middle)) <= allowed else (middle, high)
    dims = dims_at(high) if total(dims_at(high)) <= allowed else narrowest
    # What rounding down has left: a step for each in turn, those with few ids first.
    by_count = sorted(counts, key=lambda name: (counts[name], name))
    while True:
        before = dict(dims)
        for name in by_count:
            wider = dims | {name: _next_width(dims[name], dim)}
            if total(wider) <= allowed:
                dims = wider
        if dims == before:
            return dims
