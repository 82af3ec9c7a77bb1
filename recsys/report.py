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

from features.errors import DataError, RecsysError, did_you_mean
from recsys.metrics import RankingMetrics

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
        DataError: a column is missing.
    """
    scores = pl.read_parquet(directory / "*.parquet")
    wanted = [label, *score_columns, *([user] if user else [])]
    mistakes = [
        f"{directory}: no such column, got {name!r}; allowed {', '.join(scores.columns)}"
        f"{did_you_mean(name, scores.columns)}"
        for name in wanted
        if name not in scores.columns
    ]
    if mistakes:
        raise DataError(mistakes)
    scores = scores.tail(round(len(scores) * last))
    values = {c: score_metrics(scores, label=label, score=c, user=user) for c in score_columns}
    table = Table(label, *score_columns, title=f"{directory}: {len(scores):,} rows")
    for name in _SHOWN:
        table.add_row(name, *(f"{values[column][name]:.5f}" for column in score_columns))
    return table


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
