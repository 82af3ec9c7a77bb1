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
        return {
            name: rows_VD[is_stored_VD],
            f"{name}@columns": is_stored_VD.nonzero()[:, 1].to(self.column_dtype),
            f"{name}@counts": is_stored_VD.sum(1).to(self.count_dtype),
        }

    def unpack(self, stored: Mapping[str, Tensor], *, name: str) -> Tensor:
        """The matrix (V, D) that `pack` was given."""
        values = stored[name]
        rows = torch.arange(self.num_rows, device=values.device).repeat_interleave(
            stored[f"{name}@counts"].to(torch.int64)
        )
        rows_VD = values.new_zeros(self.num_rows, self.dim)
        rows_VD[rows, stored[f"{name}@columns"].to(torch.int64)] = values
        return rows_VD


def _smallest_type(largest: int) -> torch.dtype:
    return next(dtype for dtype in _UNSIGNED if largest <= torch.iinfo(dtype).max)
