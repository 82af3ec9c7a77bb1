"""Callbacks of every run: progress, checkpoints, and the results file."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from recsys.training.loss_guard import LossGuard
from recsys.training.owed_validation import is_last_step, owes_validation
from recsys.training.results import Results
from recsys.training.run import RunConfig
from recsys.training.stages import StopWhenFinished, needs_its_end
from recsys.training.task import Task

_log = logging.getLogger(__name__)


class Throughput(Callback):
    """Logs samples per second of the steps alone, over the last hundred of them."""

    def __init__(self) -> None:
        self._started_s = 0.0
        self._num_samples = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of a window."""
        if self._num_samples == 0:
            self._started_s = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count."""
        self._num_samples += len(batch) * trainer.world_size
        if (batch_idx + 1) % 100 == 0 or batch_idx + 1 == trainer.num_training_batches:
            rate = self._num_samples / (time.perf_counter() - self._started_s)
            pl_module.log("samples_per_s", rate, prog_bar=True, batch_size=1)
            self._num_samples = 0


class EpochLines(Callback):
    """A line per epoch, for logs; a terminal gets the progress bar instead."""

    def __init__(self) -> None:
        self._started_s = 0.0
        self._first_epoch = self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started_s = time.perf_counter()
        self._first_epoch, self._last_step = trainer.current_epoch, trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what was logged, and how long the rest will take."""
        if trainer.global_step == self._last_step:  # Lightning ends an epoch again on resuming
            self._first_epoch = trainer.current_epoch + 1
            return
        self._last_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        elapsed_s = time.perf_counter() - self._started_s
        done = trainer.current_epoch + 1 - self._first_epoch
        left = (trainer.max_epochs or 0) - trainer.current_epoch - 1
        # Gauges of single features would fill the screen.
        shown = {
            k: v
            for k, v in trainer.callback_metrics.items()
            if "num_" not in k and k.count("/") < 3
        }
        logged = {k: float(v) for k, v in shown.items()}
        values = "  ".join(f"{k} {v:.4g}" for k, v in sorted(logged.items()) if math.isfinite(v))
        eta = f"  {elapsed_s / done * left:.0f} s left at most" if left > 0 else ""
        print(f"epoch {trainer.current_epoch}  {elapsed_s:.0f} s  {values}{eta}", flush=True)


class _Checkpoint(ModelCheckpoint):
    """A kind of checkpoint that a run has one of, wherever its folder lies by now."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what was best, also where the run's folder was moved since."""
        here, best = Path(self.dirpath or ""), Path(state_dict["best_model_path"])
        if state_dict["dirpath"] != self.dirpath and (here / best.name).exists():
            # Of another place Lightning would forget the best score, and keep a worse checkpoint.
            paths = ("best_model_path", "kth_best_model_path", "last_model_path")
            moved = {n: str(here / Path(state_dict[n]).name) for n in paths if state_dict[n]}
            scores = state_dict["best_k_models"].items()
            best_k = {str(here / Path(path).name): score for path, score in scores}
            state_dict = {**state_dict, **moved, "dirpath": self.dirpath, "best_k_models": best_k}
        super().load_state_dict(state_dict)


class BestCheckpoint(_Checkpoint):
    """Keeps the checkpoint of the best validation, of those that count."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep it, where validations are once an epoch."""
        if _is_settled(pl_module):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep it, where they are not."""
        if _is_settled(pl_module):
            super().on_validation_end(trainer, pl_module)


class LastCheckpoint(_Checkpoint):
    """Keeps the checkpoint to go on from, after some steps or at every validation.

    That of the very last step waits for the validation behind it, which a run resumed at its end
    would no longer make.
    """

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep it after some steps."""
        if not (is_last_step(trainer) and owes_validation(trainer)):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep it where validations are once an epoch, and at the end, whatever ends it."""
        super().on_train_epoch_end(trainer, pl_module)
        is_last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        is_end = is_last_step(trainer) or is_last_epoch or trainer.should_stop
        if is_end and self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class Patience(EarlyStopping):
    """Stops after validations without a better result, of those that count.

    A run that it had stopped, resumed, takes no further step. Validations without a defined result,
    as AUC of one class, are not counted.
    """

    _has_said_undefined = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, to the patience that is asked for now, which may be another."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where patience is at an end."""
        if 0 < self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count."""
        result = trainer.callback_metrics.get(self.monitor)
        if result is not None and result.isnan():
            self._say_undefined(trainer)
        elif _is_settled(pl_module):
            super().on_validation_end(trainer, pl_module)

    def _say_undefined(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and not self._has_said_undefined:
            _log.warning(
                "%s: is undefined, as of labels of one class: no epoch is better than another, "
                "and run.patience does not end the training",
                self.monitor,
            )
        self._has_said_undefined = True


def _is_settled(task: LightningModule) -> bool:
    assert isinstance(task, Task)
    return task.is_settled


def run_callbacks(task: Task, run: RunConfig, *, directory: Path) -> list[Callback]:
    """Checkpoints, early stopping, progress and results of a run."""
    callbacks: list[Callback] = [
        BestCheckpoint(
            dirpath=directory / "checkpoints",
            filename="best",
            monitor=task.monitor,
            mode="max",
            enable_version_counter=False,
        ),
        LastCheckpoint(
            dirpath=directory / "checkpoints",
            filename="last",
            every_n_train_steps=run.checkpoint_every_steps,
            enable_version_counter=False,
        ),
        LossGuard(directory),
        Throughput(),
        Results(directory),
    ]
    if run.warm_up:
        callbacks.append(StopWhenFinished())
    if run.patience is not None and not (run.warm_up and needs_its_end(task)):
        callbacks.append(
            Patience(
                monitor=task.monitor,
                mode="max",
                patience=run.patience,
                check_on_train_epoch_end=False,
            )
        )
    return callbacks
