"""What a search in stages has come to: sizes and metrics before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def outcome_lines(warm_up: Path, retrain: Path) -> list[str]:
    """A table in Markdown: bytes, epochs and metrics of the first training and of the last.

    Args:
        warm_up: Run of the first training.
        retrain: Run of the last.
    """
    runs = {"warm-up": _report(warm_up), "retrained": _report(retrain)}
    metric = runs["retrained"]["monitor"]
    lines = [
        f"| tables | bytes | index bytes | epoch | val {metric} | test {metric} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, report in runs.items():
        values = [_shown(report.get(s, {}).get(f"{s}/{metric}")) for s in ("val", "test")]
        size, index = (f"{report[key]:,}" for key in ("table_bytes", "table_index_bytes"))
        lines.append(
            f"| {name} | {size} | {index} | {report['epoch']} | {values[0]} | {values[1]} |"
        )
    before, after = (report["table_bytes"] for report in runs.values())
    return [*lines, f"{1 - after / before:.1%} of the bytes of all tables are gone", str(retrain)]


def _report(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"
