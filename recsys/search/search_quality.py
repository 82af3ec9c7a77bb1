"""How well trained rankers search histories: `python -m recsys search-quality RUN ... --out DIR`.

NDCG@K of the events that each run's search ranks highest, beside that of a random order and of the
most recent events, by two truths: the mutual information of event and label, counted in the
training rows of the run; and, with --truth, the relevance that a simulated log was made with. Runs
stand beside each other where they were trained on the same data. Writes search_quality.csv and
search_quality.png.

Mutual information is counted by category of target and event and by distance, in buckets. Events
of which too little is known count as irrelevant, and a search with more than 20 of them is left
out. What a search cannot keep at all comes last, in random order.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from features.errors import DataError, RecsysError, RunConfigError
from recsys.metrics.relevance import TrueRelevance
from recsys.search.history_run import HistoryRun, load_history_runs
from recsys.search.out_folder import check_folder
from recsys.search.search_picture import draw
from recsys.search.search_ranking import (
    Relevance,
    SearchQuality,
    information_of_training,
    measure_searches,
)

MUTUAL_INFORMATION, SIMULATOR = "mutual information", "simulator"
_CSV, _PNG = "search_quality.csv", "search_quality.png"


def check_same_data(runs: Sequence[HistoryRun]) -> None:
    """Make sure that one truth serves all runs.

    Raises:
        RunConfigError: they differ in their data, in how it is encoded, or in their histories.
    """
    first, *others = [(run, _data(run)) for run in runs]
    mistakes = [
        f"RUN: {run.name} was trained on other data or histories than {first[0].name}, so no truth "
        f"compares them, got {run.data.data_dir}, {run.data.features_file}; look at them apart"
        for run, data in others
        if data != first[1]
    ]
    if mistakes:
        raise RunConfigError(mistakes)


def _data(run: HistoryRun) -> tuple[object, ...]:
    columns = run.ranker.columns
    names = (columns.sequence, columns.names)
    return run.data.store.manifest.data_fingerprint, run.manifest.schema_fingerprint, names


def default_edges(max_length: int) -> tuple[int, ...]:
    """Buckets of distances, each as long as all before it: 1, 2-3, 4-7, ..., max_length."""
    powers = [2**n for n in range(max_length.bit_length())]
    return (*powers, max_length + 1)


def true_relevance(directory: Path, run: HistoryRun, *, category: str) -> TrueRelevance:
    """The truth of a simulated log, in the ids of a run.

    Raises:
        DataError: there is none.
        RunConfigError: the raw values of ids are not known.
    """
    missing = [n for n in ("attraction", "decay") if not (directory / f"{n}.parquet").is_file()]
    if missing:
        raise DataError(
            f"--truth: has no {' and no '.join(f'{name}.parquet' for name in missing)}, got "
            f"{directory}; allowed a folder of `python -m recsys simulate --kind histories`"
        )
    if category not in run.data.schema.vocabularies:
        raise RunConfigError(
            f"--truth: is told in raw values, which {category!r} of {run.name} does not keep; give "
            f"it the encoding vocab, or leave --truth out"
        )
    return TrueRelevance.read(directory, schema=run.data.schema, category=category)


def compare_searches(options: argparse.Namespace) -> list[SearchQuality]:
    """Measure all runs.

    Raises:
        RecsysError: a run cannot be measured.
    """
    for name in ("k", "max_examples"):
        if getattr(options, name) < 1:
            raise RunConfigError(
                f"--{name.replace('_', '-')}: is too small, got {getattr(options, name)}; allowed "
                f"1 and more"
            )
    runs = load_history_runs(options.runs)
    check_same_data(runs)
    first = runs[0]
    category = first.category(options.category)
    truths: dict[str, Relevance] = {}
    if options.truth is not None:
        truths[SIMULATOR] = true_relevance(options.truth, first, category=category).of
    edges = options.edges or default_edges(first.ranker.max_length)
    counted = information_of_training(first, category=category, edges=edges)
    truths[MUTUAL_INFORMATION] = counted.of
    return [
        quality
        for run in runs
        for quality in measure_searches(
            run,
            truths,
            category=category,
            k=options.k,
            split=options.split,
            max_examples=options.max_examples,
        )
    ]


# -------------------------------------------------------------------------------------- shown
def table_to_print(found: Sequence[SearchQuality], *, k: int) -> Table:
    """A row per truth and run."""
    table = Table("truth", "run", title_justify="left", box=None, pad_edge=False)
    table.title = f"NDCG@{k} of searches"
    for column in ("searches", "NDCG", "random", "recent"):
        table.add_column(column, justify="right")
    for q in sorted(found, key=lambda q: q.truth != SIMULATOR):
        numbers = ("-" if math.isnan(n) else f"{n:.4f}" for n in (q.ndcg, q.random, q.recent))
        table.add_row(q.truth, q.run, f"{q.num_searches:,}", *numbers)
    return table


def words(found: Sequence[SearchQuality]) -> list[str]:
    """What could not be measured."""
    unknown = {q.truth for q in found if not q.num_searches}
    why = {
        MUTUAL_INFORMATION: "the training rows tell too little of every search; take longer "
        "buckets of distances (--edges), or more rows",
        SIMULATOR: "no search has anything to find; --truth must be the folder of the run's data",
    }
    return [f"{truth}: {why[truth]}" for truth in why if truth in unknown]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m recsys search-quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run or of a checkpoint")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--truth", type=Path, metavar="DIR", help="folder of the simulated log")
    add("--k", type=int, default=20, metavar="K", help="events that count, %(default)s")
    add("--category", metavar="NAME", help="column of the history; without, its last")
    add("--split", choices=("val", "test"), default="val", help="rows to search for, %(default)s")
    add("--max-examples", type=int, default=20_000, metavar="N", help="at most, %(default)s")
    add(
        "--edges",
        type=int,
        nargs="+",
        metavar="DISTANCE",
        help="first distance of each bucket, then the end; without, 1 2 4 8 ...",
    )
    add("--json", action="store_true", help="all numbers, for programs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    options = _parser().parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    try:
        check_folder(options.out)
        found = compare_searches(options)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    rows = pl.DataFrame([asdict(quality) for quality in found]).fill_nan(None)
    options.out.mkdir(parents=True, exist_ok=True)
    rows.write_csv(options.out / _CSV)
    draw(rows, k=options.k, file=options.out / _PNG)
    if options.json:
        content = {"k": options.k, "split": options.split, "found": rows.to_dicts()}
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return 0
    Console(highlight=False).print(table_to_print(found, k=options.k), "")
    for sentence in words(found):
        print(sentence)
    print(f"{options.out / _CSV}\n{options.out / _PNG}")
    return 0
