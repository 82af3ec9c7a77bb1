"""ROBE: a vector is made of windows on one circular array, each placed by a hash."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from features.table_spec import RobeTable
from recsys.tables.array import ArrayScheme
from recsys.tables.hashing import hash_to_rows
from recsys.tables.logical import LogicalTable


class RobeScheme(ArrayScheme):
    """Window b of id v is the Z numbers from H(v, b) on; the last is cut where it is too long.

    Args:
        table: The logical table.
        spec: Its rows or budget, and Z.

    Source: Desai et al., ROBE (2022), https://arxiv.org/abs/2108.02191, section 3.

    Differs from the paper: SplitMix64 in place of a linear hash modulo a prime, and numbers have no
    random signs, as in `hashednet`.
    """

    def __init__(self, table: LogicalTable, *, spec: RobeTable) -> None:
        super().__init__(table, spec=spec)
        self.block = spec.block

    def row_meaning(self) -> dict[str, Any]:
        """Seed, parts and the width of a window."""
        return {**super().row_meaning(), "block": self.block}

    def pick(self, mixed_L1: Tensor, coordinate_D: Tensor, size_L1: Tensor) -> Tensor:
        """The place of the window, and on from there."""
        start_LD = hash_to_rows(mixed_L1, coordinate_D // self.block, size_L1)
        return (start_LD + coordinate_D % self.block) % size_L1
