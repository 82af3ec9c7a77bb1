"""What befalls a training, by step: signals, from within and at places that a test can name."""

import os
import signal
import time

import torch.distributed as dist
from lightning import Callback


class Signal(Callback):
    """Sends this process a signal.

    Args:
        step: After how many steps, in the one that follows.
        name: Of the signal.
        validating: In the first validation after that step instead.
        rank: The process that gets it.
        twice: Sends another in the same step.
    """

    def __init__(
        self,
        step: int,
        name: str = "SIGTERM",
        validating: bool = False,
        rank: int = 0,
        twice: bool = False,
    ):
        self._step, self._number, self._validating = step, signal.Signals[name], validating
        self._rank, self._twice = rank, twice

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self._validating:
            self._send(trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if self._validating:
            self._send(trainer)

    def _send(self, trainer):
        if trainer.global_step == self._step and trainer.global_rank == self._rank:
            os.kill(os.getpid(), self._number)
            if self._twice:
                time.sleep(1.1)
                os.kill(os.getpid(), self._number)


class Killed(Callback):
    """Kills every process of the run, as a power cut would; writes down the losses until then.

    Args:
        losses: File that gets a line per step.
    """

    def __init__(self, losses: str):
        self._losses = losses

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == int(os.environ.get("KILLED_AT", "-1")):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loss = outputs["loss"].detach().clone()
        if trainer.world_size > 1:
            dist.all_reduce(loss)
        if trainer.is_global_zero:
            with open(self._losses, "a") as file:
                file.write(f"{trainer.global_step} {loss.item() / trainer.world_size}\n")
