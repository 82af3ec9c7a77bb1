"""Which checkpoint a run goes on from by itself: the newest whole one in its folder."""

from __future__ import annotations

import logging
from pathlib import Path

from features.errors import CheckpointMismatchError, RunConfigError
from recsys.checkpoint import read_manifest
from recsys.checkpoint_sums import SUMS, check_sums
from recsys.training.run import is_first_process

_log = logging.getLogger(__name__)


def resumed_checkpoint(directory: Path, *, ckpt_path: str | None) -> str | None:
    """The checkpoint that `run.resume: auto` goes on from; None: training starts anew.

    Args:
        directory: Of the run.
        ckpt_path: What the person has asked for besides.

    Raises:
        RunConfigError: it was asked for one besides.
    """
    if ckpt_path is not None:
        raise RunConfigError(
            f"run.resume: finds the checkpoint itself, got auto and ckpt_path {ckpt_path!r}; "
            f"drop one of them"
        )
    found = newest_whole(directory)
    _tell(
        f"{directory}: no whole checkpoint, so training starts anew"
        if found is None
        else f"{directory}: training goes on from {found.name}, step {read_manifest(found).step}"
    )
    return None if found is None else str(found)


def newest_whole(directory: Path, *, before_step: int | None = None) -> Path | None:
    """The checkpoint of the most steps that is whole; damaged ones are named and passed over.

    It may be one whose writing was cut off behind its last byte, `.partial`, or while it was being
    replaced, `.old`. Nothing is changed, so that all ranks find the same.

    Args:
        directory: Of the run.
        before_step: Only checkpoints of fewer steps count. None: all do.
    """
    found: list[tuple[int, bool, Path]] = []
    for path in sorted((directory / "checkpoints").glob("*.ckpt*")):
        has_final_name = path.suffix == ".ckpt"
        # The hashes are written last: without them the writing was cut off.
        if not (path / ("manifest.json" if has_final_name else SUMS)).is_file():
            continue
        try:
            step = read_manifest(path).step
        except CheckpointMismatchError as error:
            _tell(f"passed over: {error}")
            continue
        if before_step is None or step < before_step:
            found.append((step, has_final_name, path))
    for _, _, path in sorted(found, reverse=True):
        try:
            check_sums(path)
        except CheckpointMismatchError as error:
            _tell(f"passed over: {error}")
            continue
        return path
    return None


def _tell(message: str) -> None:
    if is_first_process():
        _log.info(message)
