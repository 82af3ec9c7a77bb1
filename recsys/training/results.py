"""What a run has reached, in `metrics.json`."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from recsys.checkpoint import read_manifest
from recsys.training.task import Task


class Results(Callback):
    """Writes `metrics.json`: values beside the protocol and data they belong to.

    What `validate` and `test` find of anything but the run itself, on its data, goes into
    `evaluated.json`.

    Args:
        directory: Of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._of_run = directory / "metrics.json"
        self.file = self._of_run
        """What was written last."""
        self._started_s = time.perf_counter()
        self._earlier_s = 0.0
        self._best: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, or go on with that of the run that is resumed."""
        self._started_s = time.perf_counter() - self._earlier_s
        if "trained" in self._read():  # and is to be trained further
            assert isinstance(pl_module, Task)
            self._write(trainer, pl_module, {"trained": False})

    def state_dict(self) -> dict[str, Any]:
        """How long it has trained, of which a resumed run goes on counting, and its best result."""
        return {"train_s": self._train_s, "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was trained before."""
        self._earlier_s = state_dict["train_s"]
        self._best = state_dict.get("best")

    @property
    def _train_s(self) -> float:
        return time.perf_counter() - self._started_s

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the values of the best validation that counts so far, or of a lone one."""
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, Task)
        values = _values(trainer, "val/")
        if trainer.state.fn != "fit":
            self._keep_evaluation(trainer, pl_module, {"val": values}, of="best.ckpt")
            return
        score = values.get(pl_module.monitor)
        # Every metric that picks a checkpoint is the better the higher.
        if pl_module.is_settled and (
            self._best is None or (score is not None and score > self._best)
        ):
            self._best = score
            place = {"epoch": trainer.current_epoch, "train_s": round(self._train_s, 1)}
            self._write(trainer, pl_module, {"val": values, **place})

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the values of the test."""
        assert isinstance(pl_module, Task)
        checkpoint = Path(str(trainer.ckpt_path)).name
        part = {"test": _values(trainer, "test/"), "tested_checkpoint": checkpoint}
        self._keep_evaluation(trainer, pl_module, part)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that nothing is left to train; an interrupted training does not come here."""
        assert isinstance(pl_module, Task)
        self._write(trainer, pl_module, {"trained": True})

    def _keep_evaluation(
        self, trainer: Trainer, task: Task, part: dict[str, Any], *, of: str | None = None
    ) -> None:
        """Write what was found of a checkpoint; where `of` names one, only that is the run's."""
        checkpoint = Path(str(trainer.ckpt_path))
        manifest = read_manifest(checkpoint)
        seed = manifest.config.get("seed_everything", task.seed)
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        is_of_run = (
            checkpoint.parent.resolve() == (self._directory / "checkpoints").resolve()
            and manifest.data_fingerprint in ("", data.describe()["data_fingerprint"])
            and of in (None, checkpoint.name)
        )
        if is_of_run:
            self._write(trainer, task, part, seed=seed)
        else:
            evaluated = {**part, "checkpoint": str(checkpoint), "step": manifest.step}
            self._write(trainer, task, evaluated, seed=seed, name="evaluated.json")

    def _write(
        self,
        trainer: Trainer,
        task: Task,
        part: dict[str, Any],
        *,
        seed: int | None = None,
        name: str = "",
    ) -> None:
        self.file = self._directory / name if name else self._of_run
        if not trainer.is_global_zero:
            return
        described = trainer.datamodule.describe()  # pyright: ignore[reportAttributeAccessIssue]
        report = {
            **({} if name else self._read()),
            **described,
            "seed": task.seed if seed is None else seed,
            "monitor": task.monitor.partition("/")[2],
            "table_bytes": task.embedder.num_bytes,
            "table_training_bytes": task.embedder.num_training_bytes,
            "table_index_bytes": task.embedder.index_bytes,
            **part,
        }
        self._directory.mkdir(parents=True, exist_ok=True)
        unfinished = self.file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(report, indent=2) + "\n")
        unfinished.replace(self.file)

    def _read(self) -> dict[str, Any]:
        return json.loads(self._of_run.read_text()) if self._of_run.is_file() else {}


def _values(trainer: Trainer, prefix: str) -> dict[str, float | None]:
    logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
    # JSON has no NaN: a metric that the data leaves undefined is null.
    return {k: v if math.isfinite(v) else None for k, v in logged.items()}
