"""Checkpoints between a step and the validation that follows it: the resumed run validates first.

Lightning takes such a validation as done. So its loops are written as if the validation had just
begun, which makes them run it, whole, before the next step.
"""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.loops.progress import _BatchProgress, _ProcessedTracker


def owes_validation(trainer: Trainer) -> bool:
    """Whether the last step is to be followed by a validation that has not ended."""
    epoch_loop = trainer.fit_loop.epoch_loop
    if trainer.validating:
        # Otherwise it is over, and callbacks are being told.
        return _is_within_a_batch(epoch_loop.val_loop.batch_progress)
    fetcher = trainer.fit_loop._data_fetcher
    return (
        _is_within_a_batch(epoch_loop.batch_progress)
        and fetcher is not None
        and epoch_loop._should_check_val_fx(fetcher)
    )


def _is_within_a_batch(progress: _BatchProgress) -> bool:
    assert isinstance(progress.current, _ProcessedTracker)
    return progress.current.completed < progress.current.processed


def is_last_step(trainer: Trainer) -> bool:
    """Whether `max_steps` have been taken, after which Lightning would not even validate."""
    return 0 <= trainer.max_steps <= trainer.global_step


def with_owed_validation(loops: dict[str, Any]) -> dict[str, Any]:
    """The state of Lightning's loops, with the validation after the last step still to come.

    Args:
        loops: As in a checkpoint under `loops`.
    """
    batches, validated = "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"
    fit = dict(loops["fit_loop"])
    stepped, none = dict(fit[batches]), dict.fromkeys(fit[validated]["current"], 0)
    for scope in ("total", "current"):
        stepped[scope] = {**stepped[scope], "completed": stepped[scope]["processed"]}
    begun = {**none, "ready": 1, "started": 1}
    fit[batches] = stepped
    fit[validated] = {**fit[validated], "total": begun, "current": none, "is_last_batch": False}
    return {**loops, "fit_loop": fit}
