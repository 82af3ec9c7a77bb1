"""HashedNets: every number of a vector is one of a small array, chosen and signed by hashes."""

from __future__ import annotations

from torch import Tensor

from recsys.tables.array import ArrayScheme
from recsys.tables.hashing import splitmix64


class HashedNetScheme(ArrayScheme):
    """Coordinate j of id v is number H(v, j) of the array, times +1 or -1.

    Source: Chen et al., HashedNets (2015), https://arxiv.org/abs/1504.04788, section 4.3.
    """

    def pick(
        self, mixed_L1: Tensor, coordinate_D: Tensor, size_L1: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """A place, and a sign of one bit, from one hash."""
        hashes_LD = splitmix64(mixed_L1 + coordinate_D)
        return ((hashes_LD >> 1) & (2**62 - 1)) % size_L1, (hashes_LD & 1) * 2 - 1
