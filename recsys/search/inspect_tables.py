"""The tables of a trained run: `python -m recsys inspect-tables RUN`.

Per table: its bytes, who reads it, how many of the most frequent ids share rows, how full it is,
how long its rows are, and for a ranker the angles between its readers; then what is wrong with it.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from features.errors import RecsysError
from features.sizes import format_bytes
from recsys.search.inspection import Inspection, inspect_tables
from recsys.tables.angles import narrowest
from recsys.tables.collisions import Collisions, total
from recsys.tables.diagnosis import FREQUENT_SHARE, TableDiagnosis
from recsys.tables.findings import findings
from recsys.tables.gauges import QUANTILES

_PAIRS_SHOWN = 10


def as_json(inspection: Inspection) -> str:
    """Everything, with null for what is not known."""
    content = {
        "tables": [_table(table) for table in inspection.tables],
        "frequent_share": FREQUENT_SHARE,
        "norm_quantiles": list(QUANTILES),
        "num_examples": inspection.num_examples,
        "no_angles": inspection.no_angles or None,
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _table(table: TableDiagnosis) -> dict[str, Any]:
    return {
        "name": table.name,
        "scheme": table.scheme,
        "bytes": table.num_bytes,
        "readers": list(table.readers),
        "physical": [
            {
                "name": physical.name,
                "rows": physical.num_rows,
                "dim": physical.dim,
                "load_factor": physical.load_factor,
                "norms": [None if math.isnan(n) else n for n in physical.norm_quantiles],
                "broken_rows": physical.num_broken_rows,
            }
            for physical in table.physical
        ],
        "collisions": {
            "all_features": _shares(total(table.collisions)) if table.collisions else None,
            "by_feature": {name: _shares(found) for name, found in table.collisions.items()},
            "uncounted": list(table.uncounted),
        },
        "angles": None if table.angles is None else [vars(found) for found in table.angles],
        "findings": findings(table),
    }


def _shares(found: Collisions) -> dict[str, float]:
    return {"ids": found.num_ids, "same_rows": found.same_rows, "any_row": found.any_row}


def tables_to_print(inspection: Inspection) -> list[Table]:
    """Logical tables, physical tables, and angles where some are known."""
    logical = _titled("Tables", "table", "scheme", "read by")
    for column in ("bytes", "top ids", "same rows", "any row"):
        logical.add_column(column, justify="right")
    rows = _titled("Rows, and quantiles of their lengths", "table")
    for column in ("rows", "dim", "ids per row", *(f"{q:g}" for q in QUANTILES)):
        rows.add_column(column, justify="right")
    for table in inspection.tables:
        logical.add_row(*_logical_row(table))
        for physical in table.physical:
            load = physical.load_factor
            rows.add_row(
                physical.name,
                f"{physical.num_rows:,}",
                str(physical.dim),
                "any" if load is None else f"{load:.2f}",
                *(f"{norm:.2g}" for norm in physical.norm_quantiles),
            )
    shown = [logical, rows] if rows.rows else [logical]
    for table in inspection.tables:
        if known := narrowest(table.angles or ()):
            angles = _titled(f"Angles of {table.name}", "reader", "and")
            angles.add_column("degrees", justify="right")
            middle = median(found.degrees or 0.0 for found in known)
            angles.add_row(f"median of {len(known)}", "", f"{middle:.1f}")
            for found in known[:_PAIRS_SHOWN]:
                angles.add_row(found.one, found.other, f"{found.degrees:.1f}")
            shown.append(angles)
    return shown


def _titled(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _logical_row(table: TableDiagnosis) -> tuple[str, ...]:
    cells = ["no rows", "", ""] if not table.physical else ["unknown", "", ""]
    if table.collisions:
        of_all = total(table.collisions)
        cells = [f"{of_all.num_ids:,}", f"{of_all.same_rows:.1%}", f"{of_all.any_row:.1%}"]
    size = format_bytes(table.num_bytes)
    return (table.name, table.scheme, ", ".join(table.readers), size, *cells)


def words(inspection: Inspection) -> list[str]:
    """What is wrong, and what could not be looked at."""
    found = [sentence for table in inspection.tables for sentence in findings(table)]
    for table in inspection.tables:
        if not table.physical:
            found.append(f"{table.name}: {table.scheme} has no rows, so no collisions or norms")
        elif table.uncounted:
            found.append(
                f"{table.name}: only vocabularies count their ids, so collisions leave out "
                f"{', '.join(table.uncounted)}"
            )
    return [*found, *([inspection.no_angles] if inspection.no_angles else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        "python -m recsys inspect-tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run or of a checkpoint")
    parser.add_argument("--json", action="store_true", help="all numbers, for programs")
    options = parser.parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    try:
        inspection = inspect_tables(options.run)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        print(as_json(inspection))
        return 0
    for table in tables_to_print(inspection):
        Console(highlight=False).print(table, "")
    # Outside the tables, so that sentences stay whole.
    print("\n".join(words(inspection) or ["nothing looks wrong"]))
    return 0
