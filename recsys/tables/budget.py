"""Sizes of tables from what the feature file allows them."""

from __future__ import annotations

from collections.abc import Callable

from features.errors import FeatureConfigError
from features.sizes import parse_bytes
from features.table_spec import SizedTable
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import BYTES_PER_NUMBER


def numbers_for(table: LogicalTable) -> int:
    """How many trainable 32-bit numbers a table may have: those of its rows, or of its bytes."""
    return bytes_for(table) // BYTES_PER_NUMBER


def bytes_for(table: LogicalTable) -> int:
    """How many bytes a table may take: its budget, or those of its rows."""
    spec = table.spec
    assert isinstance(spec, SizedTable)
    if spec.rows is not None:
        return spec.rows * table.dim * BYTES_PER_NUMBER
    assert spec.budget is not None, "checked when the feature file is read"
    return parse_bytes(spec.budget)


def largest_size(
    table: LogicalTable, *, numbers_of: Callable[[int], int], most: int | None = None
) -> int:
    """The largest size, from 1 on, whose numbers the table may have.

    Args:
        table: Its rows or budget count.
        numbers_of: Trainable numbers of a size; they never fall as it grows.
        most: A larger size is of no use. None: there is no such limit.

    Raises:
        FeatureConfigError: not even size 1 has room.
    """
    allowed = numbers_for(table)
    if numbers_of(1) > allowed:
        raise too_small(table, least=numbers_of(1))
    low, high = 1, 2
    while (most is None or high <= most) and numbers_of(high) <= allowed:
        low, high = high, 2 * high
    if most is not None:
        high = max(low + 1, min(high, most + 1))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if numbers_of(middle) <= allowed else (low, middle)
    return low


def rows_for(table: LogicalTable, *, row_width: int | None = None) -> int:
    """Number of rows that the table may have.

    Args:
        table: Its rows or budget count.
        row_width: Trainable numbers of one row. None: those of the table's width.

    Raises:
        FeatureConfigError: there is no room for a single row.
    """
    width = row_width or table.dim
    return largest_size(table, numbers_of=lambda rows: rows * width)


def too_small(table: LogicalTable, *, least: int) -> FeatureConfigError:
    """What to raise where a table may have fewer numbers than the least that its scheme needs."""
    return too_few_bytes(table, least=least * BYTES_PER_NUMBER)


def too_few_bytes(table: LogicalTable, *, least: int) -> FeatureConfigError:
    """What to raise where a table may take fewer bytes than the least that its scheme needs."""
    key, got = _size_as_written(table)
    return FeatureConfigError(
        f"tables.{table.name}.{key}: does not hold the least that scheme {table.spec.scheme} can "
        f"store, got {got!r}; allowed {least} bytes and up; raise it or lower "
        f"dim"
    )


def too_many_bytes(table: LogicalTable, *, most: int) -> FeatureConfigError:
    """What to raise where a table may take more bytes than there is anything to save of."""
    key, got = _size_as_written(table)
    return FeatureConfigError(
        f"tables.{table.name}.{key}: holds the whole table, so that scheme {table.spec.scheme} has "
        f"nothing to leave out, got {got!r}; allowed up to {most} bytes; lower it, or set scheme "
        f"to full"
    )


def _size_as_written(table: LogicalTable) -> tuple[str, str | int | None]:
    spec = table.spec
    assert isinstance(spec, SizedTable)
    return ("budget", spec.budget) if spec.rows is None else ("rows", spec.rows)
