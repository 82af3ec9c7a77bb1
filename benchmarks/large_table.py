"""A table of many rows: does it fit this machine, and does a killed run go on exactly?

    python benchmarks/large_table.py --rows 100000000 --row-dtype fp16 --out runs/large_table

DCNv2 reads two features of one unified table of the given rows, width 16, row-wise Adagrad, one
process on the CPU. One run trains to the end. Another one writes a checkpoint on its way and is
killed once that is there; `--run.resume auto` goes on from it, and at the end every row and every
statistic of the optimiser must be that of the first, bit for bit. Memory is the most that the
process has held; it is read from the operating system. The folder takes 3 checkpoints of room and
is removed at the end. Ends with exit code 1 where a number differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from lightning import Callback, LightningModule, Trainer

from recsys.checkpoint import read_manifest
from recsys.migration.stored import StoredTensors

_REPOSITORY = Path(__file__).resolve().parent.parent
_WIDTH, _BATCH = 16, 4096
_ROWS_AT_ONCE = 1 << 20
_EVENTS = "events.parquet"
_FEATURES = """\
sources: {{events: events.parquet}}
label: {{name: click}}
split: {{kind: column, column: part, train: [train], val: [val]}}
defaults: {{dim: {width}}}
tables: {{ids: {{scheme: unified, rows: {rows}}}}}
features:
  - {{name: user, kind: categorical, encoding: {{kind: hash}}, table: ids}}
  - {{name: item, kind: categorical, encoding: {{kind: hash}}, table: ids}}
  - {{name: device, kind: categorical}}
"""


class Clock(Callback):
    """Keeps when each step began and ended.

    Args:
        file: Where they are written at the end.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._began_s: list[float] = []
        self._ended_s: list[float] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note it."""
        self._began_s.append(time.time())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note it; checkpoints are written after this."""
        self._ended_s.append(time.time())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them."""
        self._file.write_text(json.dumps([self._began_s, self._ended_s]))


@dataclass(frozen=True)
class Measured:
    """What a run took.

    Attributes:
        name: What it was.
        steps: That it took.
        peak_gib: Most memory that it held.
        start_s: Until its first step: libraries, first values, and what it was resumed from.
        step_s: Median of a step with the time until the next; None for a run that was killed.
    """

    name: str
    steps: int
    peak_gib: float
    start_s: float | None
    step_s: float | None


def main() -> int:
    """Train, kill, resume, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--row-dtype", choices=["fp32", "fp16"], default="fp16")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True, help="folder that does not exist yet")
    options = parser.parse_args()
    out: Path = options.out.resolve()
    out.mkdir(parents=True)
    try:
        _write_inputs(out, rows=options.rows, steps=options.steps, row_dtype=options.row_dtype)
        stop = options.steps // 2
        measured = [
            _run(out, "whole", steps=options.steps),
            _run(out, "killed", steps=options.steps, stop=stop),
            _run(out, "killed", steps=options.steps, stop=None, first_step=stop),
        ]
        saved = [out / "runs" / name / "checkpoints" / "last.ckpt" for name in ("whole", "killed")]
        num_bytes = sum(file.stat().st_size for file in saved[0].rglob("*") if file.is_file())
        write_s = _checkpoint_seconds(out / "whole.json")
        differing, compared = _differences(*saved)
    finally:
        shutil.rmtree(out)
    print("| run | steps | peak memory | s to first step | s/step |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for run in measured:
        print(
            f"| {run.name} | {run.steps} | {run.peak_gib:.2f} GiB | {_in_words(run.start_s, 0)} "
            f"| {_in_words(run.step_s, 3)} |"
        )
    print(
        f"{options.rows:,} rows x {_WIDTH} in {options.row_dtype}: checkpoint of "
        f"{num_bytes / 2**30:.2f} GiB, written in {write_s:.0f} s; {differing:,} of {compared:,} "
        f"numbers differ after the kill"
    )
    return int(differing > 0)


def _write_inputs(out: Path, *, rows: int, steps: int, row_dtype: str) -> None:
    rng = np.random.default_rng(0)
    num_train, num_val = steps * _BATCH, _BATCH
    num_events = num_train + num_val
    pl.DataFrame(
        {
            # Drawn evenly, so that the table is read everywhere.
            "user": rng.integers(0, 1 << 62, num_events),
            "item": rng.integers(0, 1 << 62, num_events),
            "device": rng.integers(0, 10, num_events),
            "click": rng.integers(0, 2, num_events),
            "part": ["train"] * num_train + ["val"] * num_val,
        }
    ).write_parquet(out / _EVENTS)
    (out / "features.yaml").write_text(_FEATURES.format(rows=rows, width=_WIDTH))
    run = {
        "data": {
            "features": str(out / "features.yaml"),
            "data_dir": str(out),
            "store": str(out / "store"),
            "batch_size": _BATCH,
        },
        "model": {
            "class_path": "RankingTask",
            "init_args": {
                "ranker": {"class_path": "DCNv2", "init_args": {"mlp": [64, 32]}},
                "tables": {
                    "row_dtype": row_dtype,
                    "optimizer": {"name": "rowwise_adagrad", "lr": 0.05},
                },
            },
        },
        "run": {"root": str(out / "runs"), "test": False, "resume": "auto"},
        "trainer": {"max_epochs": 1, "limit_val_batches": 0, "log_every_n_steps": 1},
    }
    (out / "run.yaml").write_text(json.dumps(run))


def _run(
    out: Path, name: str, *, steps: int, stop: int | None = None, first_step: int = 0
) -> Measured:
    """Train; kill it as soon as its checkpoint of a step is there."""
    clock = {"class_path": "large_table.Clock", "init_args": {"file": str(out / f"{name}.json")}}
    every = stop or steps // 2
    command = [
        sys.executable, str(_REPOSITORY / "train.py"), "fit", "-c", str(out / "run.yaml"),
        "--run.name", name, "--run.checkpoint_every_steps", str(every),
        "--trainer.callbacks", json.dumps([clock]),
    ]  # fmt: skip
    paths = [str(_REPOSITORY), str(_REPOSITORY / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    began_s = time.time()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    log = out / f"{name}_{first_step}.log"
    with log.open("w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
    checkpoint = out / "runs" / name / "checkpoints" / "last.ckpt"
    while stop is not None and process.poll() is None and not checkpoint.exists():
        time.sleep(0.05)
    if stop is not None and process.poll() is None:
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    if code != (0 if stop is None else -signal.SIGKILL):
        sys.exit(f"{name}: ended with code {code}\n{log.read_text()}")
    if (done := read_manifest(checkpoint).step) != (stop or steps):
        sys.exit(f"{name}: its checkpoint is of step {done}, not {stop or steps}")
    peak_gib = usage.ru_maxrss / 2**20  # KiB on Linux
    if stop is not None:
        return Measured("killed on its way", done, peak_gib, None, None)
    starts_s, _ = json.loads((out / f"{name}.json").read_text())
    if len(starts_s) != steps - first_step:
        sys.exit(f"{name}: took {len(starts_s)} steps, not the {steps - first_step} that were left")
    step_s = statistics.median(b - a for a, b in pairwise(starts_s))
    title = "resumed" if first_step else "to the end"
    return Measured(title, len(starts_s), peak_gib, starts_s[0] - began_s, step_s)


def _checkpoint_seconds(file: Path) -> float:
    """Of the one that was written on the way: the longest pause between two steps."""
    began_s, ended_s = json.loads(file.read_text())
    return max(b - e for b, e in zip(began_s[1:], ended_s[:-1], strict=True))


def _differences(one: Path, other: Path) -> tuple[int, int]:
    """Numbers that differ in two checkpoints, and all that they have."""
    stored, others = StoredTensors(one), StoredTensors(other)
    assert stored.shapes == others.shapes
    differing = compared = 0
    for name, shape in stored.shapes.items():
        if not shape:
            continue
        matrix, again = stored.matrix(name), others.matrix(name)
        columns = slice(0, shape[1] if len(shape) > 1 else 1)
        for low in range(0, shape[0], _ROWS_AT_ONCE):
            rows = np.arange(low, min(low + _ROWS_AT_ONCE, shape[0]))
            found = matrix.rows(rows, columns)
            differing += int((found != again.rows(rows, columns)).sum())
            compared += found.size
    return differing, compared


def _in_words(seconds: float | None, digits: int) -> str:
    return "-" if seconds is None else f"{seconds:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
