"""NDCG of searches, bars per run."""

from __future__ import annotations

from pathlib import Path

import polars as pl


def draw(rows: pl.DataFrame, *, k: int, file: Path) -> None:
    """Write the picture as PNG: a part per truth, with a bar per run.

    Args:
        rows: With truth, run, ndcg, random and recent; null where nothing is known.
        k: Events that count.
        file: To write.
    """
    from matplotlib.figure import Figure  # slow to import, and of no use to anything else

    parts = rows.partition_by("truth", maintain_order=True)
    figure = Figure(figsize=(1 + 3.5 * len(parts), 4), layout="constrained")
    for axes, of_truth in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        values = of_truth["ndcg"].fill_null(0.0)
        bars = axes.bar(of_truth["run"], values)
        axes.bar_label(bars, [f"{value:.3f}" if value else "" for value in values])
        for name, style in (("recent", "--"), ("random", ":")):
            levels = of_truth[name].drop_nulls().to_numpy()
            if len(levels):
                axes.axhline(levels.mean(), color="black", linestyle=style, label=name)
        axes.set_title(of_truth["truth"][0])
        axes.set_ylabel(f"NDCG@{k}")
        axes.set_ylim(0, 1)
        axes.tick_params(axis="x", rotation=30)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(file, dpi=150)
