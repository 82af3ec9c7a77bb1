"""Vectors cut into pieces of one width."""

from __future__ import annotations

from features.errors import FeatureConfigError
from recsys.tables.logical import LogicalTable


def chunk_width(table: LogicalTable, num_chunks: int, *, key: str) -> int:
    """Numbers of one chunk of a table's vectors.

    Args:
        table: The table.
        num_chunks: Chunks of a vector.
        key: What the feature file calls their number.

    Raises:
        FeatureConfigError: they do not divide the width.
    """
    if table.dim % num_chunks:
        raise FeatureConfigError(
            f"tables.{table.name}.{key}: does not divide the width, got {num_chunks} for dim "
            f"{table.dim}; allowed its divisors; change one of them"
        )
    return table.dim // num_chunks
