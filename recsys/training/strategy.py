"""The one way training runs: Lightning's trainer over TorchRec's DistributedModelParallel.

This file alone knows both. The LightningModule holds plain embedders; here they are sharded, on one
rank as on many, and their fused optimiser runs inside the backward pass. Lightning sees the dense
optimiser only; the learning rate of the tables follows its schedule in proportion.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from torchrec.distributed import DistributedModelParallel
from typing_extensions import override

from features.errors import CheckpointMismatchError
from recsys.checkpoint import (
    DENSE,
    FUSED,
    MODEL,
    Manifest,
    load_fitting,
    load_tensors,
    read_manifest,
    read_schema,
    read_tensors,
    read_trainer_state,
    recovered,
    tensor_shapes,
    write_checkpoint,
)
from recsys.data.epochs import EpochLoader
from recsys.data.loader import BatchLoader
from recsys.tables.fused import count_updates_from, num_updates
from recsys.tables.plan import forget_cached_rows, shard
from recsys.tables.stores import table_names
from recsys.training.continuing import check_checkpoint, tables_of_other_ids
from recsys.training.dense_optimizer import state_keys
from recsys.training.look_ahead import LookAhead
from recsys.training.owed_validation import owes_validation, with_owed_validation
from recsys.training.task import Task

_log = logging.getLogger(__name__)
_TABLE_UPDATES = "table_updates"


class TorchRecStrategy(DDPStrategy):
    """Shards the tables of a task over all ranks and replicates the rest.

    Args:
        process_group_backend: gloo or nccl; follows from the device where it is left open.
        looks_ahead: Whether a step begins while the one before it runs, see `LookAhead`. None: on
            a GPU, which does both at a time; a CPU has nothing to do it with.
    """

    def __init__(
        self, process_group_backend: str | None = None, *, looks_ahead: bool | None = None
    ) -> None:
        super().__init__(process_group_backend=process_group_backend)
        self._looks_ahead = looks_ahead
        self._look_ahead: LookAhead | None = None
        self._initial_lr: float | None = None
        self._table_lrs: list[float] = []

    # --------------------------------------------------------------------------------- setup
    @override
    def setup(self, trainer: Any) -> None:
        # Of DDPStrategy.setup this leaves out what has no meaning for sharded tables: conversion to
        # other precisions, synchronised batch norm and communication hooks, which
        # `check_trainer_settings` refuses; and moving the model, which `shard` does.
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model = shard(
            self.task,
            device=self.root_device,
            num_nodes=self.num_nodes,
            examples_per_rank=trainer.datamodule.batch_size // self.world_size,
        )
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
            self._remember_learning_rates()
            if self.task.start_from is not None:
                self._start_from(self.task.start_from)
            if self.task.continue_from is not None:
                self._continue_from(self.task.continue_from)
        self.setup_precision_plugin()

    @property
    def task(self) -> Task:
        """The LightningModule, its embedders sharded."""
        assert isinstance(self.lightning_module, Task)
        return self.lightning_module

    @property
    def sharded(self) -> DistributedModelParallel:
        """The wrapper around it."""
        assert isinstance(self.model, DistributedModelParallel)
        return self.model

    @property
    @override
    def restore_checkpoint_after_setup(self) -> bool:
        return True

    @override
    def batch_to_device(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        # Lightning's own way takes a batch apart tensor by tensor, each step.
        device = device or self.root_device
        if batch.weights_B.device == device:  # as on a CPU, or where it was copied ahead
            return batch
        # Now: on the device a look would be waited for, and a wrong id ends with its kernel.
        self.task.embedder.check(batch)
        for keyed in (batch.ids, batch.sequences):
            if keyed is not None:
                keyed.length_per_key()  # adds up here, and is kept
        return batch.to(device, non_blocking=True)

    @override
    def process_dataloader(self, dataloader: object) -> object:
        if self.root_device.type == "cuda" and isinstance(dataloader, EpochLoader | BatchLoader):
            dataloader.pin()
        looks_ahead = self._looks_ahead
        if looks_ahead is None:
            looks_ahead = self.root_device.type == "cuda"
        # Gradients of several batches are of one step: it has begun when it is to be begun.
        is_step_each = self.task.trainer.accumulate_grad_batches == 1
        if not (looks_ahead and is_step_each and isinstance(dataloader, EpochLoader)):
            return dataloader
        self._look_ahead = LookAhead(
            self.task, device=self.root_device, to_device=self.batch_to_device
        )
        dataloader.pass_through(self._look_ahead)
        return dataloader

    @override
    def pre_backward(self, closure_loss: Tensor) -> None:
        super().pre_backward(closure_loss)
        if self._look_ahead is not None:
            self._look_ahead.send()

    @override
    def teardown(self) -> None:
        # Not the parent's: sharded tables cannot be moved.
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()
        self.checkpoint_io.teardown()

    # -------------------------------------------------------------------------- learning rate
    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let the tables' learning rate follow the dense one's schedule."""
        if not self._table_lrs or not self._initial_lr:
            return
        scale = self.optimizers[0].param_groups[0]["lr"] / self._initial_lr
        fused = self.sharded.fused_optimizer
        changed = False
        for group, base in zip(fused.param_groups, self._table_lrs, strict=True):
            assert isinstance(group, dict)
            changed |= group["lr"] != base * scale
            group["lr"] = base * scale
        if changed:
            fused.zero_grad()  # hands the rate to the kernels; there is no gradient to clear

    def _remember_learning_rates(self) -> None:
        first = self.optimizers[0].param_groups[0]
        # The rate of a table is that at the peak of a schedule which has one, as `OneCycleLR`.
        self._initial_lr = first.get("max_lr", first.get("initial_lr", first["lr"]))
        table_lr = self.task.tables_config.optimizer.lr
        self._table_lrs = [table_lr for _ in self.sharded.fused_optimizer.param_groups]

    # ---------------------------------------------------------------------------- checkpoints
    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        return {}  # written from the sharded model, in save_checkpoint

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        # Without the tensors, which go by name, so that a later model can find its own.
        groups = optimizer.param_groups
        return {
            "groups": [{k: v for k, v in g.items() if k != "params"} for g in groups],
            "numbers": {n: v for n, v in self._dense_state().items() if not isinstance(v, Tensor)},
        }

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """Write the tensors of all ranks and what Lightning wants to keep."""
        self.task.before_view()
        kept = {k: v for k, v in checkpoint.items() if k != "state_dict"}
        kept[_TABLE_UPDATES] = num_updates(self.sharded)
        if owes_validation(self.task.trainer):
            kept["loops"] = with_owed_validation(kept["loops"])
        write_checkpoint(
            Path(filepath),
            tensors=self._model_tensors() | self._fused_tensors() | self._dense_tensors(),
            trainer=kept,
            manifest=self._manifest(),
            schema=self.task.schema,
        )

    @override
    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        directory = Path(checkpoint_path)
        if self.task.trainer.state.fn == TrainerFn.FITTING:
            directory = recovered(directory)
        check_checkpoint(self.task, directory)
        return {**read_trainer_state(directory), "directory": str(directory)}

    @override
    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        load_tensors(Path(checkpoint["directory"]), self._model_tensors())
        forget_cached_rows(self.sharded)

    @override
    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        directory = Path(checkpoint["directory"])
        fused = self._fused_tensors()
        if fused:
            load_tensors(directory, fused)
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            now, before = optimizer.param_groups, saved["groups"]
            if len(now) != len(before):
                raise CheckpointMismatchError(
                    f"{directory}: tables had {'no' if len(before) < len(now) else 'a'} weight "
                    f"decay of their own there, got tables.weight_decay "
                    f"{self.task.tables_config.weight_decay}; allowed as in "
                    f"{directory.parent.parent / 'config.json'}; correct it, or begin anew"
                )
            for group, values in zip(now, before, strict=True):
                group.update(values)
            self._load_dense(saved.get("numbers", {}))
        self._load_dense(read_tensors(directory, DENSE))
        count_updates_from(self.sharded, checkpoint.get(_TABLE_UPDATES, 0))
        self._remember_learning_rates()

    def _start_from(self, directory: Path) -> None:
        """Begin with the weights of a checkpoint; tables whose rows belong to other ids do not."""
        before, now = read_manifest(directory).row_meanings, self.task.embedder.row_meanings()
        of_other_ids = tables_of_other_ids(read_schema(directory), self.task.schema, names=now)
        others = [n for n, meaning in now.items() if before.get(n) != meaning or n in of_other_ids]
        if others and self.task.trainer.is_global_zero:
            _log.info(
                "%s: rows of tables %s belong to other ids and begin anew",
                directory,
                ", ".join(others),
            )
        apart = self.task.embedder.tensor_names(others)
        tensors = {
            name: tensor
            for name, tensor in self._model_tensors().items()
            if name.removeprefix(f"{MODEL}embedder.") not in apart
        }
        anew = load_fitting(directory, tensors)
        if len(anew) == len(tensors):
            raise CheckpointMismatchError(
                f"run.start_from: {directory} has no tensor of this model, got other names or "
                f"shapes for all {len(anew)}; give the checkpoint of a model like it"
            )
        if anew and self.task.trainer.is_global_zero:
            _log.info(
                "%s: %d of %d tensors are taken over; anew begin %s",
                directory,
                len(tensors) - len(anew),
                len(tensors),
                ", ".join(name.removeprefix(MODEL) for name in anew),
            )
        forget_cached_rows(self.sharded)

    def _continue_from(self, directory: Path) -> None:
        """Begin with the weights of a checkpoint and the state of its optimisers, as far as kept.

        Tables may have moved between the sharded and the replicated ones since.
        """
        saved = table_names(n.removeprefix(MODEL) for n in tensor_shapes(directory))
        wanted = table_names(n.removeprefix(MODEL) for n in self._model_tensors())
        moved = {MODEL + name: MODEL + saved.get(t, name) for t, name in wanted.items()}
        tensors = {moved.get(n, n): tensor for n, tensor in self._model_tensors().items()}
        load_tensors(directory, tensors)
        forget_cached_rows(self.sharded)
        if fused := self._fused_tensors():
            anew = load_fitting(directory, fused)
            if anew and self.task.trainer.is_global_zero:
                _log.info(
                    "%s: the optimiser's state of %d of %d tensors of sharded tables begins anew",
                    directory,
                    len(anew),
                    len(fused),
                )
            updates = read_trainer_state(directory).get(_TABLE_UPDATES, 0)
            count_updates_from(self.sharded, updates)
        names = {name for name, _ in self.task.named_parameters()}
        dense: dict[str, dict[str, Tensor]] = {}
        for name, tensor in read_tensors(directory, DENSE).items():
            parameter, _, key = name.rpartition(".")
            dense.setdefault(parameter, {})[key] = tensor
        keys = state_keys(self.task.optimizer_factory)
        kept = {n: state for n, state in dense.items() if n in names and set(state) == keys}
        self._load_dense({f"{n}.{key}": t for n, state in kept.items() for key, t in state.items()})
        if len(kept) < len(dense) and self.task.trainer.is_global_zero:
            _log.info(
                "%s: the optimiser's state of %d of %d tensors is of no use to this run and "
                "begins anew",
                directory,
                len(dense) - len(kept),
                len(dense),
            )

    def _model_tensors(self) -> dict[str, Any]:
        return {MODEL + name: tensor for name, tensor in self.sharded.state_dict().items()}

    def _fused_tensors(self) -> dict[str, Any]:
        state = self.sharded.fused_optimizer.state_dict()["state"]
        return {
            f"{FUSED}{parameter}.{key}": tensor
            for parameter, tensors in state.items()
            for key, tensor in tensors.items()
        }

    def _dense_tensors(self) -> dict[str, Any]:
        return {DENSE + n: v for n, v in self._dense_state().items() if isinstance(v, Tensor)}

    def _dense_state(self) -> dict[str, Any]:
        names = {id(p): name for name, p in self.task.named_parameters()}
        return {
            f"{names[id(parameter)]}.{key}": value
            for optimizer in self.optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def _load_dense(self, values: dict[str, Any]) -> None:
        parameters = dict(self.task.named_parameters())
        optimizer = self.optimizers[0]
        on_device = {
            id(parameter)
            for group in optimizer.param_groups
            if group.get("fused") or group.get("capturable")
            for parameter in group["params"]
        }
        for name, value in values.items():
            parameter_name, key = name.rsplit(".", 1)
            parameter = parameters[parameter_name]
            # Only fused and capturable optimisers keep their step counter beside the parameter.
            stays = key == "step" and id(parameter) not in on_device
            moves = isinstance(value, Tensor) and not stays
            optimizer.state[parameter][key] = value.to(parameter.device) if moves else value

    def _manifest(self) -> Manifest:
        trainer = self.task.trainer
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        return Manifest(
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            batch_in_epoch=self.task.batch_in_epoch,
            schema_fingerprint=self.task.schema.fingerprint(),
            config=self.task.config,
            metrics={k: float(v) for k, v in trainer.callback_metrics.items()},
            tables=self.task.table_sizes(),
            row_meanings=self.task.embedder.row_meanings(),
            data_fingerprint=data.describe()["data_fingerprint"],
        )
