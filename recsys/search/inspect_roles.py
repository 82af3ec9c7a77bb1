"""What both roles of a vector do to it: `python -m recsys inspect-roles RUN ... --out DIR`.

A ranker that searches histories reads each vector twice: attention finds events by it, and
representation says what they mean. This compares the gradients of both, for each id of each column
of the history: how much longer that of representation is, and how many ids have gradients that
point apart (cosine below 0). On tables that are decoupled the two belong to different vectors, so
nothing is in conflict, and there is a cosine only where both are of one width.

Without --train it measures at the trained weights, where the gradients of both roles all but cancel
if training has converged; with it, while training anew, as the paper's figures were. Gradients are
those of single training batches, the auxiliary head's loss included. Writes roles.csv,
role_ids.csv (a row per id) and roles.png.

Source: Feng et al., DARE (2025), https://arxiv.org/abs/2410.02604, section 2.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from features.errors import RecsysError, RunConfigError
from recsys.search.history_run import HistoryRun, load_history_runs
from recsys.search.out_folder import check_folder
from recsys.search.role_picture import draw
from recsys.search.role_probe import Probe, probe_trained, probe_training

_CSV, _IDS_CSV, _PNG = "roles.csv", "role_ids.csv", "roles.png"


def probe_roles(runs: Sequence[HistoryRun], *, batches: int, steps: int | None) -> list[Probe]:
    """Measure all runs.

    Args:
        runs: The runs.
        batches: Training batches to measure trained weights on.
        steps: To train anew and measure; None: measure trained weights.

    Raises:
        RunConfigError: nothing would be measured.
    """
    for name, number in (("--batches", batches), ("--train", steps)):
        if number is not None and number < 1:
            raise RunConfigError(f"{name}: is too small, got {number}; allowed 1 and more")
    mistakes = [
        f"{run.name}: has no column of a history with one value of an event, got "
        f"{', '.join(run.ranker.columns.names)}; gradients of ids cannot be told apart"
        for run in runs
        if all(run.data.schema.is_multi_valued(name) for name in run.ranker.columns.names)
    ]
    if mistakes:
        raise RunConfigError(mistakes)
    if steps is None:
        return [probe_trained(run, num_batches=batches) for run in runs]
    return [probe for run in runs for probe in probe_training(run, num_steps=steps)]


def summary(probes: Sequence[Probe]) -> pl.DataFrame:
    """A row per run, window and column.

    Norms are means over ids, `ratio` is that of these means, `median_ratio` that of an id, and
    `opposed` is the share of ids with a cosine below 0. Only ids that have both gradients count.
    """
    rows = []
    for probe in probes:
        for name, of_ids in probe.by_column.items():
            both = of_ids.filter(pl.col("ratio") > 0)
            rows.append(
                both.select(
                    pl.lit(probe.run).alias("run"),
                    pl.lit(probe.steps).alias("steps"),
                    pl.lit(name).alias("column"),
                    pl.len().alias("ids"),
                    pl.col("norm_attention").mean(),
                    pl.col("norm_representation").mean(),
                    ratio=pl.col("norm_representation").mean() / pl.col("norm_attention").mean(),
                    median_ratio=pl.col("ratio").median(),
                    opposed=(pl.col("cosine") < 0).mean(),
                )
            )
    return pl.concat(rows)


def of_ids(probes: Sequence[Probe], runs: Sequence[HistoryRun]) -> pl.DataFrame:
    """A row per run, window, column and id, with the raw value where it is known."""
    schemas = {run.name: run.data.schema for run in runs}
    rows = []
    for probe in probes:
        for name, found in probe.by_column.items():
            is_known = name in schemas[probe.run].vocabularies
            ids = found["id"]
            raw = schemas[probe.run].decode(name, ids).cast(pl.String) if is_known else None
            rows.append(
                found.select(
                    pl.lit(probe.run).alias("run"),
                    pl.lit(probe.steps).alias("steps"),
                    pl.lit(name).alias("column"),
                    pl.lit(raw, dtype=pl.String).alias("value"),
                    pl.all(),
                )
            )
    return pl.concat(rows)


# -------------------------------------------------------------------------------------- shown
def table_to_print(rows: pl.DataFrame) -> Table:
    """The summary."""
    title = "Gradients of attention (g_A) and representation (g_R)"
    table = Table("run", "steps", "column", title=title, title_justify="left", box=None)
    table.pad_edge = False
    for column in ("ids", "|g_A|", "|g_R|", "ratio", "median", "opposed"):
        table.add_column(column, justify="right")
    for row in rows.iter_rows(named=True):
        table.add_row(
            *(row[name] for name in ("run", "steps", "column")),
            f"{row['ids']:,}",
            *(_number(row[n], ".1e") for n in ("norm_attention", "norm_representation")),
            *(_number(row[n], ".2f") for n in ("ratio", "median_ratio")),
            _number(row["opposed"], ".1%"),
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m recsys inspect-roles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run or of a checkpoint")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--batches", type=int, default=50, metavar="N", help="training batches, %(default)s")
    add("--train", type=int, metavar="STEPS", help="train so many steps anew, and measure these")
    add("--json", action="store_true", help="all numbers but those of ids, for programs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    options = _parser().parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    try:
        check_folder(options.out)
        runs = load_history_runs(options.runs)
        probes = probe_roles(runs, batches=options.batches, steps=options.train)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    rows = summary(probes)
    options.out.mkdir(parents=True, exist_ok=True)
    rows.write_csv(options.out / _CSV)
    of_ids(probes, runs).write_csv(options.out / _IDS_CSV)
    draw(probes, file=options.out / _PNG)
    if options.json:
        print(json.dumps({"found": rows.to_dicts()}, indent=2, ensure_ascii=False))
        return 0
    Console(highlight=False).print(table_to_print(rows), "")
    print("\n".join(str(options.out / name) for name in (_CSV, _IDS_CSV, _PNG)))
    return 0
