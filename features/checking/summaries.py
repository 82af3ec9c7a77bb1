"""Summaries of a feature file, with and without its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from features.sizes import format_bytes, parse_bytes
from features.spec import FeatureSet, Sequence
from features.table_spec import (
    PlannedTable,
    QuantizedTable,
    SizedTable,
    StoredTable,
    stored_tables,
)

if TYPE_CHECKING:
    from rich.table import Table

    from features.schema import FeatureSchema

FLOAT_BYTES = 4


@dataclass(frozen=True)
class TableSummary:
    """A logical table in numbers.

    Attributes:
        name: Of the table.
        scheme: Of the table.
        readers: Features that read it.
        rows: None where only data, or a plan, says.
        dim: Width of a row.
        num_bytes: Of all that is trained; None where only data, or a plan, says.
    """

    name: str
    scheme: str
    readers: tuple[str, ...]
    rows: int | None
    dim: int
    num_bytes: int | None


def table_summaries(
    feature_set: FeatureSet, schema: FeatureSchema | None
) -> tuple[TableSummary, ...]:
    """Every logical table.

    Args:
        feature_set: Names the tables.
        schema: Says how many ids there are; None: rows of full tables stay open.
    """
    found = []
    for name, table in feature_set.resolved_tables().items():
        readers = [f for f in feature_set.embedded if feature_set.table_of(f.name) == name]
        names = tuple(reader.name for reader in readers)
        owners = [f.name for f in readers if getattr(f, "like", None) is None]
        num_ids = None if schema is None else sum(schema.num_ids(owner) or 0 for owner in owners)
        for stored_name, stored in stored_tables(name, table).items():
            assert stored.dim is not None, "resolved"
            rows, num_bytes = _size(stored, dim=stored.dim, num_ids=num_ids)
            summary = TableSummary(stored_name, stored.scheme, names, rows, stored.dim, num_bytes)
            found.append(summary)
    return tuple(found)


def _size(table: StoredTable, *, dim: int, num_ids: int | None) -> tuple[int | None, int | None]:
    """Rows and bytes; None where only data says."""
    if isinstance(table, SizedTable) and table.budget is not None:
        num_bytes = parse_bytes(table.budget)
        return num_bytes // (dim * FLOAT_BYTES), num_bytes
    rows = table.rows if isinstance(table, SizedTable) else num_ids
    if rows is None or isinstance(table, PlannedTable):
        return None, None
    if isinstance(table, QuantizedTable):
        num_steps = rows if table.step == "learned" else 1
        return rows, rows * dim * table.bits // 8 + num_steps * FLOAT_BYTES
    return rows, rows * dim * FLOAT_BYTES


def report(feature_set: FeatureSet, schema: FeatureSchema | None) -> list[Table]:
    """Tables to print: the features, and the tables that they read."""
    from rich.table import Table

    features = Table("feature", "kind", "from", "table", title="Features", title_justify="left")
    features.add_column("ids", justify="right")
    for feature in feature_set.features:
        if isinstance(feature, Sequence):
            origin, table = f"last {feature.max_length} of {', '.join(feature.columns)}", ""
        else:
            origin = feature.expr or feature.source_column
            is_embedded = feature in feature_set.embedded
            table = feature_set.table_of(feature.name) if is_embedded else ""
        features.add_row(
            feature.name, feature.kind, origin, table, _ids(schema, feature.name, table)
        )
    tables = Table("table", "scheme", "read by", title="Tables", title_justify="left")
    for column in ("rows", "dim", "bytes"):
        tables.add_column(column, justify="right")
    for summary in table_summaries(feature_set, schema):
        unknown = "from data" if schema is None else "from plan"
        tables.add_row(
            summary.name,
            summary.scheme,
            ", ".join(summary.readers),
            unknown if summary.rows is None else f"{summary.rows:,}",
            str(summary.dim),
            unknown if summary.num_bytes is None else format_bytes(summary.num_bytes),
        )
    return [features, tables] if tables.rows else [features]


def _ids(schema: FeatureSchema | None, feature: str, table: str) -> str:
    if schema is None or not table:
        return ""
    num_ids = schema.num_ids(feature)
    return "63-bit hash" if num_ids is None else f"{num_ids:,}"
