"""Matrices in which most numbers are zero, as bundles store them: rows of (column, value) pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_VALUE_BYTES = 4
_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32)


@dataclass(frozen=True)
class SparseForm:
    """How a matrix of a shape is stored: values, their columns, and how many each row has.

    Columns and counts are of the smallest unsigned types that hold all there may be, so that the
    size follows from the number of nonzeros alone. Compressed sparse rows, but for the counts,
    which need fewer bytes than the places where rows begin.

    Attributes:
        num_rows: V.
        dim: D.
    """

    num_rows: int
    dim: int

    @property
    def column_dtype(self) -> torch.dtype:
        """Of columns, 0 ... D - 1."""
        return _smallest_type(self.dim - 1)

    @property
    def count_dtype(self) -> torch.dtype:
        """Of counts, 0 ... D."""
        return _smallest_type(self.dim)

    def num_bytes(self, num_nonzeros: int) -> int:
        """Size of a matrix with so many numbers that are not zero."""
        counts = self.num_rows * self.count_dtype.itemsize
        return counts + num_nonzeros * (_VALUE_BYTES + self.column_dtype.itemsize)

    def most_nonzeros(self, num_bytes: int) -> int:
        """The most numbers other than zero that so many bytes hold; below 0 where none do."""
        left = num_bytes - self.num_bytes(0)
        return min(self.num_rows * self.dim, left // (_VALUE_BYTES + self.column_dtype.itemsize))

    def pack(self, rows_VD: Tensor, *, name: str) -> dict[str, Tensor]:
        """A matrix as `NAME`, `NAME@columns` and `NAME@counts`.

        Args:
            rows_VD: The matrix, float32.
            name: Of the matrix.
        """
        is_stored_VD = rows_VD != 0
        columns, counts_V = self.pattern(is_stored_VD)
        return {
            name: rows_VD[is_stored_VD],
            f"{name}@columns": columns,
            f"{name}@counts": counts_V,
        }

    def unpack(self, stored: Mapping[str, Tensor], *, name: str) -> Tensor:
        """The matrix (V, D) that `pack` was given."""
        is_stored_VD = self.places(stored[f"{name}@columns"], stored[f"{name}@counts"])
        rows_VD = stored[name].new_zeros(self.num_rows, self.dim)
        rows_VD[is_stored_VD] = stored[name]
        return rows_VD

    def pattern(self, is_stored_VD: Tensor) -> tuple[Tensor, Tensor]:
        """Columns of the numbers that are stored, row by row, and counts (V) of the rows."""
        columns = is_stored_VD.nonzero()[:, 1].to(self.column_dtype)
        return columns, is_stored_VD.sum(1).to(self.count_dtype)

    def places(self, columns: Tensor, counts_V: Tensor) -> Tensor:
        """Whether a number is stored (V, D), from a pattern."""
        rows = torch.arange(self.num_rows).repeat_interleave(counts_V.to(torch.int64))
        is_stored_VD = torch.zeros(self.num_rows, self.dim, dtype=torch.bool)
        is_stored_VD[rows, columns.to(torch.int64)] = True
        return is_stored_VD


def _smallest_type(largest: int) -> torch.dtype:
    return next(dtype for dtype in _UNSIGNED if largest <= torch.iinfo(dtype).max)
