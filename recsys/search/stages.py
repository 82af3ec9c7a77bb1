"""Trainings of one experiment that follow each other, each resumed after a stop at any point."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import RunConfigError
from recsys.search.out_folder import alone_in
from recsys.training.interruption import SIGNALS, STOPPED, signals_restored

_TRAIN = Path(__file__).resolve().parents[2] / "train.py"


class Stages:
    """A folder with a sub-folder per stage.

    Args:
        experiment: File of the trainings.
        directory: The folder.
        arguments: Further ones of `train.py fit`.
    """

    def __init__(
        self, experiment: Path, directory: Path, *, arguments: tuple[str, ...] = ()
    ) -> None:
        self.experiment = experiment
        self.directory = directory
        self.arguments = arguments
        self._locks: tuple[int, ...] = ()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others out of the folder, also while a training outlives this process.

        Raises:
            RunConfigError: somebody is at work in the folder.
        """
        with alone_in(self.directory, work="search") as lock:
            self._locks = (lock,)
            yield

    def fit(self, name: str, features: Path, *arguments: str) -> None:
        """Train, or go on with a training, or do nothing where it is done.

        Args:
            name: Of its folder.
            features: Its feature file.
            arguments: Further ones of this training.

        Raises:
            RunConfigError: the training failed; it has said why.
            SystemExit: it was asked to stop, and can go on.
        """
        done = self.directory / f"{name}.done"
        if done.is_file():
            return
        run = self.directory / name
        resumed = _is_checkpoint(run / "checkpoints" / "last.ckpt")
        if not resumed and run.exists():
            shutil.rmtree(run)  # ended before its first checkpoint
        command = [sys.executable, str(_TRAIN), "fit", "-c", str(self.experiment)]
        command += [*self.arguments, *arguments, "--data.features", str(features)]
        command += ["--run.root", str(self.directory), "--run.name", name]
        # The file may ask for `run.resume`, which finds a checkpoint by itself.
        command += ["--ckpt_path", "last", "--run.resume", "null"] if resumed else []
        code = _exit_code(subprocess.Popen(command, pass_fds=self._locks))
        if code == STOPPED:
            raise SystemExit(code)
        if code:
            raise RunConfigError(
                f"{run}: train.py ended with code {code}; see its message above, and call this "
                f"command again to go on"
            )
        done.touch()


def _exit_code(training: subprocess.Popen[bytes]) -> int:
    """That of a training, which is waited for when this process is asked to stop, and told so."""
    with signals_restored():
        for number in SIGNALS:
            signal.signal(number, lambda number, _: training.send_signal(number))
        return training.wait()


def _is_checkpoint(path: Path) -> bool:
    """Whether there is one, be it that it was about to be replaced."""
    replaced = path.with_name(path.name + ".old")
    return any((place / "manifest.json").is_file() for place in (path, replaced))
