"""Where a run lies: its name, its folder, and which checkpoint `best` and `last` mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from features.errors import RunConfigError


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run as a whole."""

    name: str | None = None
    """Name of its folder; the experiment file's name where it is left open."""
    root: str = "runs"
    """Folder of all runs."""
    patience: int | None = None
    """Validations without a better result after which training stops; null: never."""
    checkpoint_every_steps: int | None = None
    """Steps after which the last checkpoint is written anew; null: at every validation."""
    test: bool = True
    """Whether `fit` ends by testing the best checkpoint."""
    warm_up: bool = False
    """Whether this is the first training of tables that are trained in stages."""
    start_from: str | None = None
    """Checkpoint whose weights training begins with, all that fit; null: none."""
    continue_from: str | None = None
    """Run, or checkpoint, whose learning goes on: with its ids, its weights and the state of its
    optimisers, while epochs, steps and schedules begin anew; null: none."""

    resume: Literal["auto"] | None = None
    """`auto`: goes on from the newest whole checkpoint in the run's folder, and starts anew where
    there is none; null: starts anew, or from `ckpt_path`."""

    def __post_init__(self) -> None:
        least = {"patience": 0, "checkpoint_every_steps": 1}
        mistakes = [
            f"run.{name}: is too small, got {value}; allowed {minimum} and more, or null"
            for name, minimum in least.items()
            if (value := getattr(self, name)) is not None and value < minimum
        ]
        if self.continue_from is not None and self.start_from is not None:
            mistakes.append(
                f"run.continue_from: takes the weights of one checkpoint, got "
                f"{self.continue_from!r} and run.start_from {self.start_from!r}; drop one"
            )
        if mistakes:
            raise RunConfigError(mistakes)


def run_directory(run: RunConfig, *, config_files: list[Path]) -> Path:
    """The folder of a run."""
    name = run.name or (config_files[-1].stem if config_files else "run")
    return Path(run.root) / name


def checkpoint_path(directory: Path, wanted: str) -> Path:
    """The checkpoint a person means by `best`, `last` or a path.

    Raises:
        RunConfigError: it does not exist.
    """
    path = (
        directory / "checkpoints" / f"{wanted}.ckpt" if wanted in ("best", "last") else Path(wanted)
    )
    replaced = path.with_name(path.name + ".old")
    if not path.exists() and (replaced / "manifest.json").is_file() and is_first_process():
        replaced.rename(path)  # cut off between the two steps of replacing a checkpoint
    if not (path / "manifest.json").is_file():
        found = sorted(str(p.parent) for p in directory.glob("checkpoints/*/manifest.json"))
        raise RunConfigError(
            f"ckpt_path: there is no such checkpoint, got {wanted!r} ({path}); allowed "
            f"{', '.join(found) or 'none yet in ' + str(directory)}; give one of them, or leave "
            f"ckpt_path out to start anew"
        )
    return path


def is_first_process() -> bool:
    """Whether this is the first process of the run; known before any process group starts."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"]) == 0
    # An interactive shell of SLURM has its own number in all processes that are started from it.
    names = ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(int(os.environ.get(name, "0")) == 0 for name in names)


def check_outside(directory: Path, needed: Mapping[str, Path | None]) -> None:
    """Check that a new run does not read what lies in the folder that is moved out of its way.

    Args:
        directory: Of the new run.
        needed: Files and folders that it reads, by option.

    Raises:
        RunConfigError: one lies in it.
    """
    mistakes = [
        f"{option}: lies in the folder of this very run, which would be moved away, got {path}; "
        f"give the new run a name, as in --run.name {directory.name}_2"
        for option, path in needed.items()
        if path is not None and path.resolve().is_relative_to(directory.resolve())
    ]
    if mistakes:
        raise RunConfigError(mistakes)


def keep_earlier_run(directory: Path) -> Path | None:
    """Move a run of the same name out of the way, and say where to."""
    if not directory.exists() or not any(directory.iterdir()):
        return None
    number = 1
    while (kept := directory.with_name(f"{directory.name}.{number}")).exists():
        number += 1
    directory.rename(kept)
    return kept
