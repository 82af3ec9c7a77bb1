"""Rows of a trained table in few bits: codes, and a scale and an offset for each row.

R rows · D width · C bytes of a row's codes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

TableDType = Literal["fp32", "fp16", "int8", "int4"]

BITS: dict[TableDType, int] = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}

_BYTES_BESIDE = 4
"""Of a scale and an offset, 16 bits each."""


class FewBitRows(nn.Module):
    """Rows that are whole multiples of a scale above an offset; they stay packed in memory.

    A number is offset + scale * code, with codes 0 ... 255, or 0 ... 15 of which two share a byte:
    the low half is the first.

    Args:
        codes_RC: Bytes.
        scales_R1: Of 16 bits.
        offsets_R1: Of 16 bits; the least number of each row, or just below it.
        width: D.
    """

    codes_RC: Tensor
    scales_R1: Tensor
    offsets_R1: Tensor

    def __init__(
        self, codes_RC: Tensor, scales_R1: Tensor, offsets_R1: Tensor, *, width: int
    ) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("codes_RC", codes_RC, persistent=False)
        self.register_buffer("scales_R1", scales_R1, persistent=False)
        self.register_buffer("offsets_R1", offsets_R1, persistent=False)

    @classmethod
    def nearest(cls, values_RD: Tensor, *, bits: Literal[4, 8]) -> FewBitRows:
        """The rows in few bits; no number moves by more than half a scale.

        Args:
            values_RD: Finite, and within what 16 bits can hold.
            bits: Of a code.
        """
        values_RD = values_RD.float()
        num_rows, width = values_RD.shape
        if not width or not num_rows:
            empty_R1 = torch.zeros(num_rows, 1, dtype=torch.float16)
            codes_RC = torch.zeros(num_rows, _num_bytes(width, bits), dtype=torch.uint8)
            return cls(codes_RC, empty_R1, empty_R1.clone(), width=width)
        most = (1 << bits) - 1
        # Rounded outwards, and codes are found with what was rounded: the range holds the row.
        offsets_R1 = _rounded(values_RD.amin(1, keepdim=True), up=False)
        spans_R1 = values_RD.amax(1, keepdim=True) - offsets_R1.float()
        scales_R1 = _rounded(spans_R1 / most, up=True)
        steps_R1 = scales_R1.float().clamp(min=torch.finfo(torch.float32).tiny)
        codes_RD = ((values_RD - offsets_R1.float()) / steps_R1).round().clamp(0, most)
        codes_RD = codes_RD.to(torch.uint8)
        if bits == 4:
            padded_RD = nn.functional.pad(codes_RD, (0, width % 2))
            codes_RD = padded_RD[:, ::2] | padded_RD[:, 1::2] << 4
        return cls(codes_RD.contiguous(), scales_R1, offsets_R1, width=width)

    def forward(self, rows_L: Tensor) -> Tensor:
        """Vectors (L, D) of 32 bits."""
        codes_LC = self.codes_RC.index_select(0, rows_L)
        if codes_LC.shape[1] != self.width:
            codes_LC = torch.stack([codes_LC & 15, codes_LC >> 4], dim=2).flatten(1)
        vectors_LD = codes_LC[:, : self.width].float()
        scales_L1 = self.scales_R1.index_select(0, rows_L).float()
        return vectors_LD.mul_(scales_L1).add_(self.offsets_R1.index_select(0, rows_L).float())


class HalfRows(nn.Module):
    """Rows of 16-bit floats; they stay so in memory.

    Args:
        values_RD: Of 16 bits.
    """

    values_RD: Tensor

    def __init__(self, values_RD: Tensor) -> None:
        super().__init__()
        self.register_buffer("values_RD", values_RD, persistent=False)

    def forward(self, rows_L: Tensor) -> Tensor:
        """Vectors (L, D) of 32 bits."""
        return self.values_RD.index_select(0, rows_L).float()


def stored_dtype(width: int, dtype: TableDType) -> TableDType:
    """What rows of a width are stored as: 16 bits where scales and offsets would cost more.

    Args:
        width: D.
        dtype: What was asked for.
    """
    is_narrow = dtype in ("int8", "int4") and row_bytes(width, dtype) >= row_bytes(width, "fp16")
    return "fp16" if is_narrow else dtype


def row_bytes(width: int, dtype: TableDType) -> int:
    """Size of a row, with its scale and offset."""
    beside = _BYTES_BESIDE if dtype in ("int8", "int4") else 0
    return _num_bytes(width, BITS[dtype]) + beside


def _num_bytes(width: int, bits: int) -> int:
    return -(-width * bits // 8)


def _rounded(values: Tensor, *, up: bool) -> Tensor:
    """The nearest number of 16 bits on one side."""
    rounded = values.half()
    is_wrong = rounded.float() < values if up else rounded.float() > values
    beyond = torch.full_like(rounded, torch.inf if up else -torch.inf)
    return torch.where(is_wrong, torch.nextafter(rounded, beyond), rounded)
