"""Where a verb writes: its tables and pictures, or the trainings that it goes on with."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from features.errors import RunConfigError

_LOCK, _INPUTS = "lock", "inputs.json"


def check_folder(folder: Path) -> None:
    """Make sure that it can be made, before anything takes time.

    Raises:
        RunConfigError: something else has its name.
    """
    if folder.exists() and not folder.is_dir():
        raise RunConfigError(f"--out: is no folder, got {folder}; give another name")


@contextmanager
def alone_in(folder: Path, *, work: str) -> Iterator[int]:
    """Keep others out of a folder, which is made.

    Gives a file descriptor. A training outlives this process where that is killed, and holds the
    lock where it was given the descriptor: two processes never write to one run.

    Args:
        folder: With the trainings.
        work: What is done there, for messages.

    Raises:
        RunConfigError: somebody is at work in the folder.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunConfigError(
                f"--out: another {work}, or a training of one that was ended, is at work there, "
                f"got {folder}; wait for its end, or give another folder"
            ) from None
        yield lock.fileno()


def check_inputs(folder: Path, inputs: Mapping[str, object], *, work: str) -> None:
    """Note what the trainings are made from; refuse to go on with those of something else.

    Args:
        folder: With the trainings.
        inputs: By name, as JSON has them.
        work: What is done there, for messages.

    Raises:
        RunConfigError: the folder was begun with other inputs.
    """
    file = folder / _INPUTS
    if not file.is_file():
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(inputs, indent=2) + "\n")
        unfinished.replace(file)
        return
    before = json.loads(file.read_text())
    changed = [name for name, value in inputs.items() if before.get(name) != value]
    if changed:
        raise RunConfigError(
            f"--out: holds another {work}, got other {', '.join(changed)} than before in "
            f"{folder}; give another folder, or remove it"
        )
