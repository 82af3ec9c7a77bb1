"""Sizes of tables from what the feature file allows them."""

from __future__ import annotations

from features.errors import FeatureConfigError
from features.sizes import parse_bytes
from features.spec import SizedTable
from recsys.tables.scheme import BYTES_PER_NUMBER


def rows_for(spec: SizedTable, *, dim: int, name: str) -> int:
    """Number of rows of a one-matrix scheme: as given, or the most that a byte budget holds.

    Raises:
        FeatureConfigError: the budget does not hold a single row.
    """
    if spec.rows is not None:
        return spec.rows
    assert spec.budget is not None, "checked when the feature file is read"
    row_bytes = dim * BYTES_PER_NUMBER
    num_rows = parse_bytes(spec.budget) // row_bytes
    if num_rows < 1:
        raise FeatureConfigError(
            f"tables.{name}.budget: does not hold one row of {row_bytes} bytes, got "
            f"{spec.budget!r}; allowed {row_bytes} bytes and up; raise it or lower dim"
        )
    return num_rows
