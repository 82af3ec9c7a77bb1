"""A physical table put together from what all ranks hold of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from recsys.tables.scheme import Part, PhysicalTable


def whole_table(table: PhysicalTable, parts: Sequence[Part], *, device: torch.device) -> Tensor:
    """All rows (V, D), the same to the last bit on all ranks; every rank calls it.

    Args:
        table: Sharded in any way, or replicated.
        parts: Of this rank; none where others hold it all.
        device: Of this rank.
    """
    rows_VD = torch.full((table.num_rows, table.dim), -torch.inf, device=device)
    for part in parts:
        _place(rows_VD, part).copy_(part.values)
    if is_parallel():  # the largest: right for parts, and for copies too
        dist.all_reduce(rows_VD, op=dist.ReduceOp.MAX)
    return rows_VD


def write_parts(parts: Sequence[Part], rows_VD: Tensor) -> None:
    """Give this rank's parts of a table new values.

    Args:
        parts: Of this rank.
        rows_VD: The whole table.
    """
    for part in parts:
        part.values.copy_(_place(rows_VD, part))


def is_parallel() -> bool:
    """Whether there are other ranks."""
    return dist.is_initialized() and dist.get_world_size() > 1


def _place(rows_VD: Tensor, part: Part) -> Tensor:
    num_rows, num_columns = part.values.shape
    rows = slice(part.first_row, part.first_row + num_rows)
    return rows_VD[rows, part.first_column : part.first_column + num_columns]
