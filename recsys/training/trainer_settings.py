"""Settings of Lightning's trainer that it would take, and that would fail or do nothing here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from features.errors import RecsysError, RunConfigError

_PRECISIONS = ("32", "32-true", "bf16-mixed", "16-mixed")


def check_trainer_settings(chosen: Any) -> None:
    """Refuse what leaves no trained model.

    Args:
        chosen: The values of `trainer`, by name.

    Raises:
        RunConfigError: with all mistakes.
    """
    mistakes = [
        f"trainer.{name}: leaves nothing to train, got {value}; allowed 1 and more, -1 for no end"
        for name, value in (("max_epochs", chosen.max_epochs), ("max_steps", chosen.max_steps))
        if value is not None and (value == 0 or value < -1)
    ]
    if chosen.strategy != "auto":
        mistakes.append(
            f"trainer.strategy: training always runs under TorchRecStrategy, got "
            f"{chosen.strategy!r}; allowed auto; leave it out"
        )
    if str(chosen.precision or "32") not in _PRECISIONS:
        mistakes.append(
            f"trainer.precision: weights stay in 32 bits, got {chosen.precision!r}; allowed "
            f"{', '.join(_PRECISIONS)}; choose one"
        )
    if chosen.sync_batchnorm:
        mistakes.append(
            "trainer.sync_batchnorm: is not supported, got true; allowed false; leave it out"
        )
    if chosen.enable_checkpointing is False:
        mistakes.append(
            "trainer.enable_checkpointing: a run without checkpoints leaves no model, got false; "
            "allowed true; leave it out"
        )
    if chosen.fast_dev_run:
        mistakes.append(
            f"trainer.fast_dev_run: leaves no checkpoint, got {chosen.fast_dev_run}; "
            f"allowed false; for a short trial give --run.name trial --trainer.max_steps 10"
        )
    if not isinstance(chosen.val_check_interval, int | float | None):
        mistakes.append(
            f"trainer.val_check_interval: each process has its own clock, got "
            f"{chosen.val_check_interval!r}; allowed a number of batches, or a share of an epoch"
        )
    if mistakes:
        raise RunConfigError(mistakes)


@contextmanager
def refused(where: str) -> Iterator[None]:
    """Turn what a library says of settings into a `RunConfigError`.

    Args:
        where: Their key in the experiment file.
    """
    try:
        yield
    except RecsysError:
        raise
    except (MisconfigurationException, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise RunConfigError(
            f"{where}: these settings are refused: {reason}; correct them in the experiment file"
        ) from error
