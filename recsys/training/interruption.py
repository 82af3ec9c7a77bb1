"""A training that is asked to stop: one last checkpoint, on all ranks together, then exit 75."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment

from recsys.training.owed_validation import is_last_step, owes_validation

STOPPED = os.EX_TEMPFAIL
"""Exit code of a run that was asked to stop and can go on: 75."""

# What schedulers send: Kubernetes and SLURM, a person's Ctrl-C, SLURM's `--signal=USR1@SECONDS`.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# A terminal and torchrun both pass Ctrl-C on to every process: that is one request, not two.
_SAME_REQUEST_S = 1.0


@contextmanager
def signals_restored() -> Iterator[None]:
    """Gives signals back their handlers in the end."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interruption(Callback):
    """Ends a training by signal, after the step in progress or in the midst of a validation.

    Before the first step and after the last there is nothing to save, and the signal ends the
    process at once, with the same exit code. A second signal kills.

    Args:
        checkpoint: Where the last checkpoint is written.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._received: signal.Signals | None = None
        self._received_s = 0.0
        self._is_training = False
        self._group: dist.ProcessGroup | None = None

    def listen(self) -> None:
        """Take the signals over."""
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over again: Lightning has set handlers of its own."""
        self.listen()
        self._is_training = True
        if trainer.world_size > 1 and dist.get_backend() != dist.Backend.GLOO:
            # Asks the ranks without their devices.
            self._group = cast("dist.ProcessGroup", dist.new_group(backend="gloo"))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last checkpoint is written, so leave, if any rank was asked to."""
        self._is_training = False
        if self._is_asked(trainer):
            self._stop(trainer, "after the last step")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over again."""
        self.listen()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop, if any rank was asked to."""
        self._stop_if_asked(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop, if any rank was asked to; the resumed run validates from the start."""
        if self._is_training:
            self._stop_if_asked(trainer)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is not None:
            if now - self._received_s > _SAME_REQUEST_S:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._received, self._received_s = signal.Signals(number), now
        if not self._is_training:
            raise SystemExit(STOPPED)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._is_asked(trainer) and not (is_last_step(trainer) and owes_validation(trainer)):
            trainer.save_checkpoint(self._checkpoint)
            self._stop(trainer, f"at step {trainer.global_step}")

    def _is_asked(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self._received is not None
        is_asked = torch.tensor(int(self._received is not None))
        dist.all_reduce(is_asked, dist.ReduceOp.MAX, group=self._group)
        return bool(is_asked)

    def _stop(self, trainer: Trainer, when: str) -> NoReturn:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # nothing is left to save: only to leave
        if trainer.is_global_zero:
            name = "another process" if self._received is None else self._received.name
            print(f"stopped by {name} {when}; {self._checkpoint} goes on from there", flush=True)
        # Lightning kills the first process as soon as one that it started ends with a code.
        environment = getattr(trainer.strategy, "cluster_environment", None)
        is_started = isinstance(environment, LightningEnvironment) and not trainer.is_global_zero
        raise SystemExit(0 if is_started else STOPPED)
