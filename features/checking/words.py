"""What `python -m features check` prints of memory, collisions and warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from features.checking.result import CheckResult
from features.sizes import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

STATE = """\
With state: the numbers, and two more for each that Adam keeps of replicated tables, or one
that adagrad keeps of sharded ones (rowwise_adagrad: one a row). A rank also holds a gradient
of each replicated number. Beside this come dense layers, activations and batches."""


def memory_table(result: CheckResult) -> Table | None:
    """Memory table by table; None where nothing is known of any."""
    from rich.table import Table

    if all(memory is None for _, memory in result.tables):
        return None
    ranks = "a rank" if result.world_size == 1 else f"a rank of {result.world_size}"
    title = f"Memory in training, {format_bytes(result.bytes_per_rank)} for tables on {ranks}"
    table = Table("table", "place", "optimizer", title=title, title_justify="left")
    for column in ("with state", "on a rank"):
        table.add_column(column, justify="right")
    for summary, memory in result.tables:
        if memory is None:
            table.add_row(summary.name, "not estimated", "", "", "")
            continue
        table.add_row(
            summary.name,
            memory.place,
            memory.optimizer,
            format_bytes(memory.bytes_with_state),
            format_bytes(memory.bytes_per_rank),
        )
    return table


def collision_table(result: CheckResult) -> Table | None:
    """Expected collisions; None where nothing is hashed."""
    from rich.table import Table

    if not result.collisions:
        return None
    title = "Ids that share rows, by expectation"
    table = Table("hashed in", "feature", title=title, title_justify="left")
    for column in ("ids", "rows", "share some row", "share all rows"):
        table.add_column(column, justify="right")
    for found in result.collisions:
        table.add_row(
            found.place,
            found.feature,
            f"{found.num_ids:,}",
            f"{found.num_rows:,}",
            f"{found.some_row:.1%}",
            f"{found.all_rows:.1%}",
        )
    return table


def warning_lines(result: CheckResult) -> list[str]:
    """One line per warning, below a line that says what they are."""
    if result.rows is None:
        return []
    rows = ", ".join(f"{part} {num:,}" for part, num in result.rows.items())
    lines = [f"Events: {rows}"]
    if not result.warnings:
        return [*lines, "Warnings: none"]
    lines.append(f"Warnings, {len(result.warnings)}; the file can be used as it is:")
    return lines + [f"  {found.subject}: {found.text}" for found in result.warnings]
