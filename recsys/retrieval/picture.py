"""Recall against bytes, a line or points for each family of forms."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from features.sizes import format_bytes

_MARKS = "osD^"
_SIDES = (("recall@100", "alone"), ("rescored recall@100", "candidates scored by their vectors"))


def draw(rows: pl.DataFrame, *, file: Path) -> None:
    """Write the picture as PNG: forms alone on the left, with candidates rescored on the right.

    Args:
        rows: With `family`, `vectors`, `bytes` and both recalls.
        file: To write.
    """
    from matplotlib.figure import Figure  # slow to import, and of no use to anything else

    figure = Figure(figsize=(12, 5), layout="constrained")
    parts = figure.subplots(1, 2, sharey=True)
    for axes, (column, title) in zip(parts, _SIDES, strict=True):
        for mark, of_family in zip(
            _MARKS, rows.partition_by("family", maintain_order=True), strict=False
        ):
            ordered = of_family.sort("bytes")
            family = ordered["family"][0]
            is_faiss = family == "FAISS"  # ways of their own, not sizes of one way
            axes.plot(
                ordered["bytes"], ordered[column], ("" if is_faiss else "-") + mark, label=family
            )
            for row in ordered.iter_rows(named=True):
                place = (row["bytes"], row[column])
                axes.annotate(
                    row["vectors"],
                    place,
                    xytext=(4, 6 if is_faiss else -10),
                    textcoords="offset points",
                    fontsize="x-small",
                )
        axes.margins(x=0.12, y=0.08)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda size, _: format_bytes(round(size)))
        axes.set_xlabel("bytes per item that are searched")
        axes.set_title(title)
        axes.grid(visible=True, alpha=0.3)
    parts[0].set_ylabel("recall@100 against exact lists")
    parts[0].legend(fontsize="small", loc="lower right")
    figure.savefig(file, dpi=150)
