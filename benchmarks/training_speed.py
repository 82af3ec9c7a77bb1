"""Training speed and memory of DCNv2, DeepFM and DLRM beside FuxiCTR's, by the rows of the tables.

    python benchmarks/training_speed.py --peer-python ENVIRONMENT/bin/python

FuxiCTR needs an environment of its own; `fuxictr/requirements.txt` says how to make it. Without
--peer-python only this side is measured.

Both sides train on the same events with the same sizes, rates and threads, and take turns, so that
what else the machine does weighs on both: ratios are medians over rounds of the ratio within one.
Samples per second are those between the end of the sixth step and the end of the last one, with
loading and all else that training does; a run ends after --seconds, but has 20 steps at least.
Memory is the most that the process and its workers have held. Ids are drawn evenly, so that the
tables are read everywhere.

What the sides do not share: FuxiCTR's Adam goes over all rows of all tables at each step. Here
tables of up to 8 MB have Adam too, and larger ones Adagrad of the rows that were read, fused into
the backward pass: the settings that one gets by saying nothing. FuxiCTR's DeepFM has a number per
id for its first order, where ours is a function of the vector. FuxiCTR clips gradients.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import polars as pl
import torch
from lightning import Callback, LightningModule, Trainer

from recsys.tables.config import TablesConfig

_BENCHMARKS = Path(__file__).resolve().parent
_OURS, _THEIRS = "recsys", "FuxiCTR"
_WARM_UP, _MIN_STEPS = 6, 20
_NUM_EVENTS = {"train": 409_600, "val": 204_800}
SETTINGS = {
    "width": 16,
    "num_fields": 10,
    "num_cross_layers": 3,
    "mlp": [400, 400, 400],
    "lr": 1e-3,
    "dense_max_bytes": TablesConfig().dense_max_bytes,
    "batch_size": 1024,
    "predict_batch_size": 8192,
    "num_workers": 0,
    "min_steps": _MIN_STEPS,
}
_RANKERS = {
    "DCNv2": {"structure": "parallel", "num_cross_layers": 3, "mlp": SETTINGS["mlp"]},
    "DeepFM": {"mlp": SETTINGS["mlp"]},
    "DLRM": {"top_mlp": SETTINGS["mlp"]},
}

Report = dict[str, Any]


# ------------------------------------------------------------------------- inside our training
class Measurement(Callback):
    """Keeps the second at which each step has ended, and stops after some.

    Args:
        out: Directory for `report.json`.
        seconds: To train, from the end of the first step.
    """

    def __init__(self, out: str, *, seconds: float) -> None:
        self._out = Path(out)
        self._max_s = seconds
        self._ended_s: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx
    ) -> None:
        """Read the clock."""
        self._ended_s.append(time.perf_counter())
        is_late = self._ended_s[-1] - self._ended_s[0] > self._max_s
        if is_late and len(self._ended_s) >= _MIN_STEPS:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report."""
        tables = "embedder"
        dense = [p.numel() for n, p in pl_module.named_parameters() if tables not in n]
        most = getrusage(RUSAGE_SELF).ru_maxrss + getrusage(RUSAGE_CHILDREN).ru_maxrss
        report = {
            "ended_s": self._ended_s,
            "peak_bytes": most * 1024,
            "num_dense": sum(dense),
            "num_threads": torch.get_num_threads(),
        }
        (self._out / "report.json").write_text(json.dumps(report))


# ------------------------------------------------------------------------------- taking turns
def main() -> None:
    """Run in turns and print the table."""
    options = _options()
    reports: dict[tuple[str, int, str], list[Report]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            data = write_data(Path(folder) / str(rows), rows=rows, num_events=_NUM_EVENTS)
            for number in range(options.rounds):
                for model in options.models:
                    for side, command in _sides(options).items():
                        out = data / f"{model}_{side}_{number}"
                        settings = _settings(options, model=model, rows=rows, seed=number)
                        report = run(command(data, out, settings), out, settings)
                        reports.setdefault((model, rows, side), []).append(report)
                        said = f"{samples_per_s(report, options.batch_size):,.0f} samples/s"
                        print(f"round {number} {model} {rows:,} rows {side}: {said}", flush=True)
    print("\n".join(table_lines(reports, batch_size=options.batch_size)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, help="Python of FuxiCTR's environment")
    parser.add_argument("--models", nargs="+", choices=list(_RANKERS), default=list(_RANKERS))
    sizes = [10_000, 1_000_000, 2_600_000, 10_000_000]
    parser.add_argument("--rows", nargs="+", type=int, default=sizes, help="of all ten tables")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run, about")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=SETTINGS["batch_size"])
    parser.add_argument("--precision", default="32-true", help="of this side's trainer")
    most = SETTINGS["dense_max_bytes"]
    parser.add_argument("--dense-max-bytes", type=int, default=most, help="of this side's tables")
    return parser.parse_args()


def _settings(options: argparse.Namespace, *, model: str, rows: int, seed: int) -> dict[str, Any]:
    chosen = {name: getattr(options, name) for name in ("seconds", "threads", "batch_size")}
    chosen |= {"model": model, "rows": rows, "seed": seed, "passes": 0}
    ours = {name: getattr(options, name) for name in ("precision", "dense_max_bytes")}
    return {**SETTINGS, **chosen, **ours}


def write_data(directory: Path, *, rows: int, num_events: Mapping[str, int]) -> Path:
    """Events with ids drawn evenly, as Parquet and as FuxiCTR's encoded arrays; gives the folder.

    Args:
        directory: Is made.
        rows: Of all tables.
        num_events: By split.
    """
    directory.mkdir(parents=True)
    size, names = rows // SETTINGS["num_fields"], [f"f{k}" for k in range(SETTINGS["num_fields"])]
    rng = np.random.default_rng(0)
    frames = []
    for split, count in num_events.items():
        ids = {name: rng.integers(0, size, count, dtype=np.int64) for name in names}
        # Clicks depend on pairs of ids, each of them often seen where tables are small.
        logit = sum(np.sin(ids[a] % 97 + ids[b] % 89) for a, b in pairwise(names))
        click = (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(np.int64)
        np.savez(directory / f"{split}.npz", **ids, click=click)
        frames.append(pl.DataFrame(ids | {"click": click}).with_columns(split=pl.lit(split)))
    pl.concat(frames).write_parquet(directory / "events.parquet")
    features = [
        {"name": name, "kind": "categorical", "encoding": {"kind": "identity", "size": size}}
        for name in names
    ]
    content = {
        "sources": {"events": "events.parquet"},
        "label": {"name": "click"},
        "split": {"kind": "column", "column": "split"},
        "defaults": {"dim": SETTINGS["width"]},
        "features": features,
    }
    (directory / "features.yaml").write_text(json.dumps(content))  # YAML reads JSON
    return directory


def _sides(options: argparse.Namespace) -> dict[str, Any]:
    sides = {_OURS: our_command}
    if options.peer_python is not None:
        python = options.peer_python.absolute()
        sides[_THEIRS] = lambda data, out, settings: their_command(python, data, out, settings)
    return sides


def our_command(data: Path, out: Path, settings: Mapping[str, Any]) -> list[str]:
    """`train.py fit`, with an experiment file in the folder `out`, which is made."""
    out.mkdir()
    experiment = out / "experiment.yaml"
    experiment.write_text(json.dumps(_experiment(data, out, settings)))  # YAML reads JSON
    return [sys.executable, "train.py", "fit", "-c", str(experiment)]


def _experiment(data: Path, out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    ranker = {"class_path": settings["model"], "init_args": _RANKERS[settings["model"]]}
    adam = {"lr": settings["lr"], "fused": True}
    measured = {"out": str(out), "seconds": settings["seconds"]}
    return {
        "seed_everything": settings["seed"],
        "data": {
            "features": str(data / "features.yaml"),
            "data_dir": str(data),
            "store": str(data / "store"),
            "batch_size": settings["batch_size"],
        },
        "model": {
            "class_path": "RankingTask",
            "init_args": {
                "ranker": ranker,
                "optimizer": {"class_path": "torch.optim.Adam", "init_args": adam},
                "tables": {"dense_max_bytes": settings["dense_max_bytes"]},
            },
        },
        "run": {"root": str(out), "name": "run", "test": False},
        "trainer": {
            "accelerator": "cpu",
            "precision": settings["precision"],
            "max_epochs": 1000,
            "limit_val_batches": 0,
            "logger": False,
            "callbacks": [{"class_path": "training_speed.Measurement", "init_args": measured}],
        },
    }


def their_command(python: Path, data: Path, out: Path, settings: Mapping[str, Any]) -> list[str]:
    """FuxiCTR's run, with settings in the folder `out`, which is made."""
    out.mkdir()
    (out / "settings.json").write_text(json.dumps(settings))
    command = [str(python), str(_BENCHMARKS / "fuxictr" / "run.py")]
    return [
        *command,
        "--settings",
        str(out / "settings.json"),
        "--data",
        str(data),
        "--out",
        str(out),
    ]


def environment_of(threads: int) -> dict[str, str]:
    """What both sides run in."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    path = f"{_BENCHMARKS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    threaded = dict.fromkeys(names, str(threads))
    return {**os.environ, **threaded, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": path}


def run(command: Sequence[str], out: Path, settings: Mapping[str, Any]) -> Report:
    """One side's turn; gives what it wrote into `out`."""
    how = {
        "cwd": _BENCHMARKS.parent,
        "env": environment_of(settings["threads"]),
        "capture_output": True,
        "text": True,
    }
    ran = subprocess.run(command, **how, check=False)
    if not (out / "report.json").is_file():
        sys.exit(f"{' '.join(command)}: ended with code {ran.returncode}\n{ran.stderr}")
    report = json.loads((out / "report.json").read_text())
    assert report["num_threads"] == settings["threads"], "both sides have equally many"
    return report


# ------------------------------------------------------------------------------------ results
def samples_per_s(report: Report, batch_size: int) -> float:
    """Between the end of warming up and the last step."""
    ended_s = report["ended_s"][_WARM_UP - 1 :]
    return (len(ended_s) - 1) * batch_size / (ended_s[-1] - ended_s[0])


def table_lines(
    reports: Mapping[tuple[str, int, str], list[Report]], *, batch_size: int
) -> list[str]:
    """The table in Markdown: a row per model, number of rows and side."""
    heads = [
        "model",
        "rows",
        "side",
        "samples/s",
        "times FuxiCTR",
        "peak memory",
        "dense parameters",
    ]
    lines = [row(heads), row(["---", "---:", "---", *["---:"] * (len(heads) - 3)])]
    for (model, rows, side), runs in reports.items():
        rates = [samples_per_s(run, batch_size) for run in runs]
        theirs = reports.get((model, rows, _THEIRS), []) if side == _OURS else []
        ratios = [a / samples_per_s(b, batch_size) for a, b in zip(rates, theirs, strict=False)]
        cells = [
            model,
            f"{rows:,}",
            side,
            f"{statistics.median(rates):,.0f}",
            f"{statistics.median(ratios):.2f}" if ratios else "",
            f"{statistics.median(run['peak_bytes'] for run in runs) / 2**20:,.0f} MiB",
            f"{runs[0]['num_dense']:,}",
        ]
        lines.append(row(cells))
    return lines


def row(cells: Sequence[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
