"""Gradients of two roles, id by id, as cumulative shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recsys.search.role_probe import Probe


def draw(probes: Sequence[Probe], *, file: Path) -> None:
    """Write the picture as PNG: a row per column of the history, cosines left and ratios right.

    Args:
        probes: A line each.
        file: To write.
    """
    from matplotlib.figure import Figure  # slow to import, and of no use to anything else

    columns = list(dict.fromkeys(name for probe in probes for name in probe.by_column))
    figure = Figure(figsize=(10, 1 + 3.5 * len(columns)), layout="constrained")
    parts = figure.subplots(len(columns), 2, squeeze=False)
    for (left, right), name in zip(parts, columns, strict=True):
        for probe in probes:
            label = f"{probe.run}, {probe.steps}"
            for axes, measure in ((left, "cosine"), (right, "ratio")):
                values = probe.by_column[name][measure].drop_nulls()
                if len(values := values.filter(values != 0)):
                    axes.ecdf(values, label=label)
        left.axvline(0, color="black", linestyle=":")
        left.set_xlim(-1, 1)
        left.set_xlabel(f"{name}: cosine of both gradients")
        right.set_xscale("log")
        right.axvline(1, color="black", linestyle=":")
        right.set_xlabel(f"{name}: gradient of representation / of attention")
        for axes in (left, right):
            axes.set_ylabel("share of ids")
            axes.grid(visible=True, alpha=0.3)
        if right.has_data():
            right.legend(fontsize="small")
    figure.savefig(file, dpi=150)
