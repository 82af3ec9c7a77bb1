"""Metrics of scored Parquet: `python -m recsys report SCORES --label click`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from features.errors import DataError, RecsysError, RunConfigError, did_you_mean
from recsys.metrics import RankingMetrics
from recsys.scoring.output import COMPLETE, PLAN

_SHOWN = ("auc", "logloss", "gauc", "normalized_entropy", "calibration")


def score_metrics(
    scores: pl.DataFrame, *, label: str, score: str, user: str | None = None
) -> dict[str, float]:
    """Metrics of one column of probabilities.

    Args:
        scores: Rows with a label.
        label: Column of 0 and 1.
        score: Column of probabilities.
        user: Column of users, for GAUC.
    """
    metrics = RankingMetrics()
    users = scores[user].rank("dense") if user else pl.Series([-1]).new_from_index(0, len(scores))
    metrics.update(
        torch.logit(scores[score].cast(pl.Float64).to_torch(), eps=1e-12),
        scores[label].cast(pl.Float32).to_torch(),
        torch.ones(len(scores)),
        users.cast(pl.Int64).to_torch(),
    )
    return {name: float(value) for name, value in metrics.compute().items()}


def report(
    directory: Path, *, label: str, score_columns: Sequence[str], user: str | None, last: float
) -> Table:
    """A table with a column per score.

    Args:
        directory: Of Parquet files with the label and the scores.
        label: Column of 0 and 1.
        score_columns: Columns of probabilities.
        user: Column of users, for GAUC.
        last: Share of rows at the end that count.

    Raises:
        DataError: a file cannot be read, a column is missing, or a value is none to score.
        RunConfigError: `last` is no share.
    """
    if not 0 < last <= 1:
        raise RunConfigError(f"--last: is no share, got {last}; allowed more than 0, up to 1")
    scores = _read(directory)
    wanted = [label, *score_columns, *([user] if user else [])]
    mistakes = [
        f"{directory}: no such column, got {name!r}; allowed {', '.join(scores.columns)}"
        f"{did_you_mean(name, scores.columns)}"
        for name in wanted
        if name not in scores.columns
    ]
    mistakes = mistakes or _value_mistakes(
        scores, label=label, score_columns=score_columns, where=str(directory)
    )
    if mistakes:
        raise DataError(mistakes)
    scores = scores.tail(max(1, round(len(scores) * last)))
    values = {c: score_metrics(scores, label=label, score=c, user=user) for c in score_columns}
    table = Table(label, *score_columns, title=f"{directory}: {len(scores):,} rows")
    for name in _SHOWN:
        table.add_row(name, *(f"{values[column][name]:.5f}" for column in score_columns))
    return table


def _read(directory: Path) -> pl.DataFrame:
    if (directory / PLAN).is_file() and not (directory / COMPLETE).is_file():
        raise DataError(
            f"{directory}: is unfinished, got no {COMPLETE}; run `python -m recsys score ... --out "
            f"{directory}` again"
        )
    files = sorted(directory.glob("*.parquet"))
    if not files:
        raise DataError(
            f"{directory}: holds no Parquet file, got none; give what "
            f"`python -m recsys score ... --out {directory}` makes"
        )
    try:
        return pl.read_parquet(files)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{directory}: cannot be read, got {reason}; score again") from None


def _value_mistakes(
    scores: pl.DataFrame, *, label: str, score_columns: Sequence[str], where: str
) -> list[str]:
    """The first value of each column that no metric is defined for."""
    is_label = pl.col(label).cast(pl.Float64, strict=False).is_in([0.0, 1.0])
    rules = [(label, is_label, "0 and 1")]
    for name in score_columns:
        is_probability = pl.col(name).cast(pl.Float64, strict=False).is_between(0, 1)
        rules.append((name, is_probability, "probabilities, 0 to 1"))
    mistakes = []
    for name, holds, allowed in rules:
        wrong = scores.with_row_index("row").filter(~holds.fill_null(value=False))
        if len(wrong):
            mistakes.append(
                f"{where}: {name}: is wrong in {len(wrong)} rows, first in row {wrong['row'][0]}, "
                f"got {wrong[name][0]!r}; allowed {allowed}; name another column, or mend the data"
            )
    return mistakes


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser("python -m recsys report", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="SCORES", help="what `score` made")
    parser.add_argument("--label", required=True, help="column of 0 and 1")
    parser.add_argument("--scores", required=True, metavar="A,B", help="columns of probabilities")
    parser.add_argument("--user", help="column of users, for GAUC")
    parser.add_argument("--last", type=float, default=1.0, help="share of rows that count")
    options = parser.parse_args(arguments)
    try:
        table = report(
            options.directory,
            label=options.label,
            score_columns=options.scores.split(","),
            user=options.user,
            last=options.last,
        )
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    Console().print(table)
    return 0
