"""What the tables of a run keep in memory, with gradients and the state of their optimisers.

The limits and optimisers are those of a run file that says nothing of `tables`; see
recsys/tables/config.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

REPLICATED_BYTES = 8_000_000
"""Larger tables are sharded: `tables.dense_max_bytes` of a run."""
FLOAT_BYTES = 4
_BY_ROWS = ("full", "hash", "unified")


@dataclass(frozen=True)
class TableMemory:
    """One table in training.

    Attributes:
        place: Whole on every rank, or cut over all.
        optimizer: Whose state is counted.
        bytes_with_state: Of the whole table: its numbers and what the optimiser keeps of them.
        bytes_per_rank: Of numbers, state and, where replicated, gradients.
    """

    place: Literal["replicated", "sharded"]
    optimizer: Literal["Adam", "adagrad"]
    bytes_with_state: int
    bytes_per_rank: int


def table_memory(
    scheme: str, *, num_rows: int | None, dim: int, num_parts: int, world_size: int
) -> TableMemory | None:
    """Memory of a table; None where its scheme, or missing data, does not tell its numbers.

    Args:
        scheme: Of the table.
        num_rows: Of `dim` numbers each; None where it is not known.
        dim: Width of a row.
        num_parts: Tables of equal size that it is stored as.
        world_size: Ranks.
    """
    if scheme not in _BY_ROWS or num_rows is None:
        return None
    num_bytes = num_rows // num_parts * num_parts * dim * FLOAT_BYTES
    if num_bytes // num_parts <= REPLICATED_BYTES:
        # Adam: two moments of each number; beside them, its gradient.
        return TableMemory("replicated", "Adam", 3 * num_bytes, 4 * num_bytes)
    # Adagrad: a sum of squares of each number; gradients never leave the looked-up rows.
    return TableMemory("sharded", "adagrad", 2 * num_bytes, -(-2 * num_bytes // world_size))


def total_per_rank(tables: Iterable[TableMemory | None]) -> int:
    """Bytes of all tables on a rank; those that are not known are left out."""
    return sum(memory.bytes_per_rank for memory in tables if memory is not None)
