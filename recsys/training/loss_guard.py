"""Ends a training whose loss is no number any more, and says which rows it happened on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

from features.errors import LossError
from recsys.training.resuming import newest_whole

# A cross-entropy of numbers that mean anything stays below a hundred.
_MOST = 1e6
_NEVER = 1 << 62


class LossGuard(Callback):
    """Looks at the loss of every step, and at none twice.

    One process on a CPU looks at once. Elsewhere that would wait for the device, or for the other
    processes, so steps are looked at together: every `log_every_n_steps` steps, and before a
    checkpoint is written, so that none is kept of a model that is lost.

    Args:
        directory: Of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._first: torch.Tensor | None = None
        self._loss: torch.Tensor | None = None
        self._places: dict[int, tuple[int, int]] = {}

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the first step whose loss is too large, or no number."""
        loss = outputs["loss"].detach()
        step = trainer.global_step
        is_cheap = loss.device.type == "cpu" and trainer.world_size == 1
        if is_cheap and abs(loss.item()) <= _MOST:
            return
        is_lost = ~(loss.abs() <= _MOST)  # no comparison holds for NaN
        before = self._first
        if before is None:
            before = torch.full_like(loss, _NEVER, dtype=torch.int64)
        is_first = is_lost & (before == _NEVER)
        self._first = torch.where(is_first, torch.full_like(before, step), before)
        self._loss = torch.where(is_first, loss, loss if self._loss is None else self._loss)
        self._places[step] = (trainer.current_epoch, batch_idx)
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if is_cheap or step % every == 0:
            self._look(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep no checkpoint of a model that is lost."""
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        if self._first is None:
            return
        first = self._first.clone()
        if trainer.world_size > 1:
            dist.all_reduce(first, dist.ReduceOp.MIN)
        step = int(first)
        if step == _NEVER:
            self._places.clear()
            return
        said = [self._of_batch(trainer, step) if int(self._first) == step else None]
        if trainer.world_size > 1:
            own, said = said[0], [None] * trainer.world_size
            dist.all_gather_object(said, own)
        raise LossError("; ".join([*filter(None, said), self._way_out(step)]))

    def _of_batch(self, trainer: Trainer, step: int) -> str:
        assert self._loss is not None, "a step was taken"
        epoch, batch = self._places[step]
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        origin = data.origin(epoch=epoch, batch=batch)
        return (
            f"training: the loss cannot be trained on, got {float(self._loss):.4g} in step {step}, "
            f"batch {batch} of epoch {epoch}; allowed {_MOST:.0e} and less; it was of {origin}"
        )

    def _way_out(self, step: int) -> str:
        """Names the newest checkpoint whose own loss was still seen to be right."""
        good = newest_whole(self._directory, before_step=step - 1)
        if good is None:
            return "there is no earlier checkpoint; mend the data or lower the learning rate"
        return (
            f"the last good checkpoint is {good}; mend the data, and go on with --ckpt_path "
            f"{good}, or lower the learning rate in a run of another name with --run.start_from it"
        )
