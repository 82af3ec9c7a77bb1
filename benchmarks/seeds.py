"""Trains experiments over several seeds and prints what they reached: a row per variant.

A run lies in `ROOT/VARIANT_sSEED`. One that has been tested already is not trained again, so that
a benchmark that was cut off goes on with the run it was at.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FeatureFile = Callable[[str, int], str]

_REPOSITORY = Path(__file__).resolve().parent.parent


def main(
    *,
    experiments: Mapping[str, str],
    metrics: Mapping[str, str],
    about: str,
    published: Mapping[str, str] | None = None,
    feature_file: FeatureFile | None = None,
) -> None:
    """Train what is missing, then print the table.

    Args:
        experiments: File of each variant, relative to the repository.
        metrics: Heading of a column -> name of the metric without its split.
        about: What the benchmark measures.
        published: Figure that others report, by variant.
        feature_file: Content of a variant's, with a seed; without it the experiment names one.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--only", nargs="+", default=list(experiments), help="some variants")
    parser.add_argument("--report", action="store_true", help="train nothing, print the table")
    options = parser.parse_args()
    root = options.root.resolve()
    experiments = {name: experiments[name] for name in options.only}
    if not options.report:
        train_missing(experiments, seeds=options.seeds, root=root, feature_file=feature_file)
    lines = table_lines(
        experiments, seeds=options.seeds, root=root, metrics=metrics, published=published or {}
    )
    print("\n".join(lines))


def train_missing(
    experiments: Mapping[str, str],
    *,
    seeds: Sequence[int],
    root: Path,
    feature_file: FeatureFile | None = None,
) -> None:
    """Train and test each variant with each seed, all variants with the first seed first."""
    for seed in seeds:
        for variant, experiment in experiments.items():
            name = _run_name(variant, seed)
            if "test" in _results(root, name):
                continue
            print(f"--- {name}", flush=True)
            command = [sys.executable, "train.py", "fit", "-c", experiment]
            command += ["--seed_everything", str(seed)]
            command += ["--run.root", str(root), "--run.name", name]
            if feature_file is not None:
                file = root / "features" / f"{name}.yaml"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(feature_file(variant, seed))
                command += ["--data.features", str(file)]
            code = subprocess.run(command, cwd=_REPOSITORY, check=False).returncode
            if code != 0:
                sys.exit(f"{name}: train.py ended with code {code}")


def table_lines(
    variants: Iterable[str],
    *,
    seeds: Sequence[int],
    root: Path,
    metrics: Mapping[str, str],
    published: Mapping[str, str],
) -> list[str]:
    """The table in Markdown: mean and standard deviation over the seeds that have been tested."""
    headings = ["variant", "seeds", *(f"test {heading}" for heading in metrics), "best epoch"]
    headings += ["s to it", *(["published"] if published else [])]
    lines = [_row(headings), _row(["---"] * len(headings))]
    for variant in variants:
        results = {seed: _results(root, _run_name(variant, seed)) for seed in seeds}
        tested = {seed: report for seed, report in results.items() if "test" in report}
        reports = tested.values()
        columns = [
            [report["test"][f"test/{name}"] for report in reports] for name in metrics.values()
        ]
        cells = [variant, _listed(tested), *map(_mean_and_deviation, columns)]
        cells.append(_listed(report["epoch"] for report in reports))
        cells.append(_listed(round(report["train_s"]) for report in reports if "train_s" in report))
        lines.append(_row([*cells, *([published.get(variant, "-")] if published else [])]))
    return lines


def _run_name(variant: str, seed: int) -> str:
    return f"{variant}_s{seed}"


def _results(root: Path, name: str) -> dict[str, Any]:
    file = root / name / "metrics.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers)) or "-"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
