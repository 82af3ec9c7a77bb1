"""Trainings of one experiment with several feature files and seeds, some at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_TRAIN = Path(__file__).resolve().parents[2] / "train.py"


@dataclass(frozen=True)
class Training:
    """One run of a grid.

    Attributes:
        name: Of its folder.
        features: Its feature file.
        seed: Of everything.
    """

    name: str
    features: Path
    seed: int


@dataclass(frozen=True)
class Grid:
    """Where the runs of one experiment lie.

    A run is done when its model has been tested, or trained where there are no test rows; so a
    grid that was cut off goes on where it was, at the last checkpoint of the run in progress.

    Attributes:
        experiment: Its file.
        directory: Folder of `runs/` and `logs/`.
        arguments: Further ones of `train.py fit`.
    """

    experiment: Path
    directory: Path
    arguments: tuple[str, ...] = ()

    def results(self, training: Training) -> dict[str, Any] | None:
        """Its `metrics.json`; None before it is done."""
        file = self.directory / "runs" / training.name / "metrics.json"
        found = json.loads(file.read_text()) if file.is_file() else {}
        is_trained = found.get("trained") and "val" in found and not found["rows"].get("test")
        return found if "test" in found or is_trained else None

    def train(self, trainings: Sequence[Training], *, num_workers: int, lock: int) -> list[str]:
        """Train and test what is missing, with a line for each; give the names of those that fail.

        Args:
            trainings: In this order.
            num_workers: Processes at a time; they share the cores evenly.
            lock: File descriptor that they keep the folder locked with, should this one end.
        """
        missing = [t for t in trainings if self.results(t) is None]
        print(f"{len(trainings)} runs, {len(trainings) - len(missing)} of them done", flush=True)
        threads = max(1, len(os.sched_getaffinity(0)) // num_workers)
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        failed, started_s = [], time.monotonic()
        with ThreadPoolExecutor(num_workers) as pool:
            running = {
                pool.submit(self._train, t, num_threads=threads, lock=lock): t for t in missing
            }
            num_done = 0
            try:
                while running:
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        training = running.pop(future)
                        num_done += 1
                        line = self._line(training, future)
                        if self.results(training) is None:
                            failed.append(training.name)
                        elapsed_s = time.monotonic() - started_s
                        left_min = elapsed_s / num_done * (len(missing) - num_done) / 60
                        more = f"; {left_min:.0f} min left" if running else ""
                        print(f"{num_done}/{len(missing)} {line}{more}", flush=True)
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                raise
        return failed

    def log_file(self, name: str) -> Path:
        """What a run printed."""
        return self.directory / "logs" / f"{name}.log"

    def _train(self, training: Training, *, num_threads: int, lock: int) -> int:
        command = [sys.executable, str(_TRAIN), "fit", "-c", str(self.experiment)]
        command += ["--data.features", str(training.features)]
        command += ["--seed_everything", str(training.seed)]
        command += ["--run.root", str(self.directory / "runs"), "--run.name", training.name]
        command += ["--run.test", "true", "--run.resume", "auto"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
        with self.log_file(training.name).open("w") as log:
            return subprocess.run(
                [*command, *self.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                check=False,
                pass_fds=(lock,),
            ).returncode

    def _line(self, training: Training, future: Future[int]) -> str:
        found = self.results(training)
        if found is None:
            return (
                f"{training.name}: train.py ended with code {future.result()}; "
                f"see {self.log_file(training.name)}"
            )
        values = "  ".join(f"{k} {v:.4f}" for k, v in shown(found[judged_on(found)]).items())
        return f"{training.name}  {values}"


def judged_on(found: dict[str, Any]) -> Literal["val", "test"]:
    """The rows that the `metrics.json` of a run judges it by: validation where none are to test."""
    return "test" if "test" in found else "val"


def shown(metrics: dict[str, float | None]) -> dict[str, float]:
    """Metrics without their split, and without counts and undefined ones."""
    return {
        name.partition("/")[2]: value
        for name, value in metrics.items()
        if value is not None and "num_examples" not in name
    }
