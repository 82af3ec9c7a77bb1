"""Ways to store tables beside each other: `python -m recsys compare-tables -c EXPERIMENT ...`.

Trains an experiment once per scheme, byte budget and seed, and writes what came out as a table
(results.csv) and a picture (results.png: the metric against bytes, a line per scheme).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from features.errors import DataError, RecsysError, RunConfigError
from features.load import parse_feature_set
from features.plans import copy_plans
from features.yaml_tree import parse_yaml
from recsys.search.grid import Grid, Training, judged_on, shown
from recsys.search.out_folder import alone_in, check_inputs
from recsys.search.pareto import draw
from recsys.search.variants import Variant, check_budgets, feature_file
from recsys.training.further_options import unknown_options

_CSV, _PNG = "results.csv", "results.png"
_OF_RUN = ("name", "root", "test", "resume", "warm_up")
_DECIDED = ("--data.features", *(f"--run.{name}" for name in _OF_RUN))


@dataclass(frozen=True)
class Cell:
    """One way to store the tables.

    Attributes:
        variant: Scheme and options.
        budget: Bytes of each table; None for a scheme without a choice.
    """

    variant: Variant
    budget: str | None

    @property
    def name(self) -> str:
        """As part of a file's name."""
        text = self.variant.text.replace(":", "-").replace("=", "-").replace(",", "-")
        return text if self.budget is None else f"{text}_{self.budget.replace(' ', '')}"


def cells(schemes: Sequence[str], budgets: Sequence[str]) -> list[Cell]:
    """All schemes at all budgets; those without a size once.

    Raises:
        RunConfigError: a scheme or budget cannot be read, or a budget is missing.
    """
    variants = [Variant.parse(text) for text in schemes]
    check_budgets(budgets)
    if not budgets and any(variant.has_size for variant in variants):
        sized = ", ".join(variant.text for variant in variants if variant.has_size)
        raise RunConfigError(
            f"--budgets: is missing, got none; allowed sizes such as 158kB 1.6MB, which {sized} "
            f"must have"
        )
    found = [Cell(v, None) for v in variants if not v.has_size]
    found += [Cell(v, b) for b in budgets for v in variants if v.has_size]
    return list({cell.name: cell for cell in found}.values())


def collect(grid: Grid, trainings: Sequence[tuple[Cell, Training]]) -> pl.DataFrame:
    """A row per run that is done: scheme, budget, seed, bytes, and metrics of its last rows.

    Args:
        grid: Of the comparison.
        trainings: With the cell that each is of.

    Raises:
        DataError: the runs were trained on different data.
    """
    data: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for cell, training in trainings:
        found = grid.results(training)
        if found is None:
            continue
        data.setdefault(found.get("data_fingerprint", ""), training.name)
        rows.append(
            {
                "scheme": cell.variant.text,
                "budget": cell.budget,
                "seed": training.seed,
                "table_bytes": found["table_bytes"],
                "epoch": found["epoch"],
                "train_s": found["train_s"],
                "split": judged_on(found),
                "monitor": found["monitor"],
                **shown(found[judged_on(found)]),
            }
        )
    if len(data) > 1:
        raise DataError(
            f"{grid.directory}: runs of different data cannot be compared, got "
            f"{', '.join(data.values())} on a log each; allowed one; give a new --out, or bring "
            f"the earlier files back"
        )
    return pl.DataFrame(rows, schema_overrides={"budget": pl.String}, infer_schema_length=None)


def summary(runs: pl.DataFrame, *, metric: str) -> pl.DataFrame:
    """Mean and standard deviation over the seeds, a row per scheme and budget, in file order."""
    return runs.group_by("scheme", "budget", maintain_order=True).agg(
        pl.col("table_bytes").first(),
        seeds=pl.len(),
        mean=pl.col(metric).mean(),
        deviation=pl.col(metric).std(),
    )


def table_lines(rows: pl.DataFrame, *, metric: str, split: str) -> list[str]:
    """The summary in Markdown."""
    lines = [f"| scheme | budget | bytes | seeds | {split} {metric} |", "|---|---|---:|---:|---:|"]
    for row in rows.iter_rows(named=True):
        deviation = "" if row["deviation"] is None else f" ± {row['deviation']:.4f}"
        lines.append(
            f"| {row['scheme']} | {row['budget'] or '-'} | {row['table_bytes']:,} | "
            f"{row['seeds']} | {row['mean']:.4f}{deviation} |"
        )
    return lines


def _feature_files(options: argparse.Namespace, source: Path) -> dict[Cell, str]:
    """What each way to store the tables makes of the feature file."""
    texts, mistakes = {}, []
    for cell in cells(options.schemes, options.budgets):
        try:
            texts[cell] = feature_file(
                source.read_text(),
                name=str(source),
                variant=cell.variant,
                budget=cell.budget,
                tables=options.tables,
            )
        except RecsysError as error:
            mistakes += error.mistakes
    if mistakes:
        raise RunConfigError(dict.fromkeys(mistakes))
    return texts


def _trainings(
    texts: Mapping[Cell, str], *, source: Path, seeds: Sequence[int], folder: Path
) -> list[tuple[Cell, Training]]:
    """All runs, first seeds first; writes their feature files, and copies plans that these name."""
    folder.mkdir(exist_ok=True)
    for cell, text in texts.items():
        (folder / f"{cell.name}.yaml").write_text(text)
        feature_set = parse_feature_set(text, name=cell.name)
        copy_plans(feature_set, source=source.parent, target=folder)
    return [
        (cell, Training(f"{cell.name}_s{seed}", folder / f"{cell.name}.yaml", seed))
        for seed in dict.fromkeys(seeds)
        for cell in texts
    ]


def features_of(experiment: Path) -> Path:
    """The feature file that an experiment names."""
    if not experiment.is_file():
        raise RunConfigError(f"-c: is no file, got {experiment}; give an experiment file")
    content = parse_yaml(experiment.read_text(), name=str(experiment)).value
    data = content.get("data") if isinstance(content, dict) else None
    features = data.get("features") if isinstance(data, dict) else None
    if not isinstance(features, str) or not Path(features).is_file():
        raise RunConfigError(
            f"{experiment}: data.features is no feature file, got {features!r}; run this where "
            f"the path in the experiment file leads to it"
        )
    return Path(features)


def several_experiments(files: Sequence[Path]) -> list[str]:
    """What is wrong with several experiment files, where there may be one."""
    if len(files) == 1:
        return []
    return [f"-c: is one file here, got {', '.join(map(str, files))}; put all into one"]


def _seed_of(experiment: Path) -> int:
    content = parse_yaml(experiment.read_text(), name=str(experiment)).value
    return int(content.get("seed_everything", 0))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        "python -m recsys compare-tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Further options go to train.py fit, for example --trainer.max_epochs 2.",
    )
    add = parser.add_argument
    add("-c", dest="config", type=Path, action="append", required=True, metavar="EXPERIMENT")
    add("--schemes", nargs="+", required=True, metavar="SCHEME[:KEY=VALUE,...]")
    add("--budgets", nargs="*", default=[], metavar="SIZE", help="bytes of each table, as 158kB")
    add("--tables", nargs="+", metavar="TABLE", help="tables of the feature file to store so; all")
    add("--seeds", nargs="+", type=int, help="that of the experiment file, or 0")
    add("--out", type=Path, required=True, metavar="FOLDER", help="of runs and results")
    add("--workers", type=int, default=1, help="trainings at a time")
    add("--metric", help="to show and draw; what picks the best epoch")
    options, more = parser.parse_known_args(arguments)
    try:
        _check_options(options, more)
        return _run(options, more)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2


def _check_options(options: argparse.Namespace, more: Sequence[str]) -> None:
    mistakes = unknown_options(
        more,
        verb="compare-tables",
        example="--trainer.max_epochs",
        takes_seed=False,
        decided=_DECIDED,
    )
    mistakes += several_experiments(options.config)
    if options.workers < 1:
        mistakes.append(f"--workers: is too small, got {options.workers}; allowed 1 and more")
    if mistakes:
        raise RunConfigError(mistakes)


def _run(options: argparse.Namespace, more: Sequence[str]) -> int:
    (experiment,) = options.config
    directory, source = options.out.resolve(), features_of(experiment)
    texts = _feature_files(options, source)
    grid = Grid(experiment, directory, tuple(more))
    with alone_in(directory, work="comparison") as lock:
        inputs = {
            "experiment": experiment.read_text(),
            "features": source.read_text(),
            "tables": options.tables,
            "arguments": list(more),
        }
        check_inputs(directory, inputs, work="comparison")
        folder = directory / "features"
        trainings = _trainings(
            texts, source=source, seeds=options.seeds or [_seed_of(experiment)], folder=folder
        )
        wanted = [training for _, training in trainings]
        failed = grid.train(wanted, num_workers=options.workers, lock=lock)
    runs = collect(grid, trainings)
    if runs.is_empty():
        print("no run ended with a result", file=sys.stderr)
        return 1
    metric = options.metric or runs["monitor"][0]
    if metric not in runs.columns:
        raise RunConfigError(
            f"--metric: is no metric of the runs, got {metric!r}; allowed "
            f"{', '.join(runs.columns[runs.columns.index('monitor') + 1 :])}"
        )
    runs.write_csv(directory / _CSV)
    rows, split = summary(runs, metric=metric), runs["split"][0]
    draw(rows, metric=metric, split=split, file=directory / _PNG)
    print("\n".join(table_lines(rows, metric=metric, split=split)))
    print(f"{directory / _CSV}\n{directory / _PNG}")
    return 1 if failed else 0
