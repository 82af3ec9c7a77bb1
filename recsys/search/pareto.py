"""A metric against bytes, a line per scheme."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from features.sizes import format_bytes

_MARKS = "osD^v<>pPXh*"


def _apart(sizes: Sequence[int]) -> list[int]:
    """Those of rising sizes whose labels leave room for each other on a logarithmic axis."""
    kept = list(sizes[:1])
    least_factor = max(1.02, (sizes[-1] / sizes[0]) ** 0.08)
    for size in sizes[1:]:
        if size >= kept[-1] * least_factor:
            kept.append(size)
    return kept


def draw(rows: pl.DataFrame, *, metric: str, split: str, file: Path) -> None:
    """Write the picture as PNG.

    Args:
        rows: With scheme, budget, table_bytes, mean and deviation; a scheme without a budget
            becomes a level line.
        metric: What mean and deviation are of.
        split: The rows that it was measured on.
        file: To write.
    """
    from matplotlib.figure import Figure  # slow to import, and of no use to anything else

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    groups = rows.partition_by("scheme", maintain_order=True)
    for number, of_scheme in enumerate(groups):
        ordered = of_scheme.sort("table_bytes")
        style = {"marker": _MARKS[number % len(_MARKS)], "label": ordered["scheme"][0]}
        if ordered["budget"][0] is None:
            axes.axhline(ordered["mean"][0], color="grey", linestyle="--", label=style["label"])
            continue
        axes.errorbar(
            ordered["table_bytes"],
            ordered["mean"],
            yerr=ordered["deviation"].fill_null(0.0),
            capsize=2,
            **style,
        )
    axes.set_xscale("log")
    sizes = rows.filter(pl.col("budget").is_not_null())["table_bytes"].unique().sort().to_list()
    if sizes:
        ticks = _apart(sizes)
        axes.set_xticks(ticks, [format_bytes(size) for size in ticks], minor=False)
        axes.minorticks_off()
    axes.set_xlabel("bytes of the tables")
    axes.set_ylabel(f"{split} {metric}")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(file, dpi=150)
