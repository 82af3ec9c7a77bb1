"""What all tasks share: tables, the dense optimiser, exact resume."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from features.errors import CheckpointMismatchError, RunConfigError, SchemaMismatchError
from features.schema import FeatureSchema
from recsys.checkpoint import Manifest
from recsys.tables.after_steps import after_steps, before_views
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.fused import check_optimizer
from recsys.tables.hashing import salt
from recsys.tables.layout import field_layout
from recsys.tables.logical import LogicalTable, logical_tables
from recsys.tables.scheme import AfterStep, BeforeView
from recsys.tables.staged import have_finished
from recsys.training.dense_optimizer import OptimizerFactory, dense_optimizer
from recsys.types import Batch, FieldLayout

_log = logging.getLogger(__name__)

SchedulerFactory = Callable[[Optimizer], LRScheduler]


class BegunStep(Protocol):
    """A training step as far as its batch decides it, begun during the one before."""

    def send(self) -> None:
        """Send other ranks what is for them, once all have said how much that is."""

    def arrive(self) -> None:
        """Take what they sent."""

    def record_stream(self, stream: torch.cuda.streams.Stream) -> None:
        """Keep the memory until the stream is done with it."""


class Task(LightningModule, ABC):
    """A model, its tables and its loss. Built in two steps: hyper-parameters, then `build`.

    Args:
        optimizer: Makes the dense optimiser, which trains all but the sharded tables.
        scheduler: Changes its learning rate each step, and that of the sharded tables with it.
        tables: Where tables live and how the sharded ones are updated.
        seed: Of dropout and masking.

    Attributes:
        start_from: Checkpoint whose weights a new training begins with, where they fit. None: it
            begins with those of the seed.
        continue_from: Checkpoint whose weights and state of optimisers a new training begins with.
        begun: The batch of the next training step, and what `begin_step` gave for it. None: the
            step begins with itself.
    """

    reads: ClassVar[Literal["ranking", "sequence"]]
    """Rows it trains on: examples with labels, or users' sequences."""

    def __init__(
        self,
        *,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
        tables: TablesConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.optimizer_factory = optimizer
        self.scheduler_factory = scheduler
        self.tables_config = tables
        self.seed = seed
        self.config: Mapping[str, Any] = {}
        self.start_from: Path | None = None
        self.continue_from: Path | None = None
        self.begun: tuple[Batch, BegunStep] | None = None
        self._schema: FeatureSchema | None = None
        self._after_steps: tuple[AfterStep, ...] = ()
        self._before_views: tuple[BeforeView, ...] = ()

    # --------------------------------------------------------------------------------- build
    def build(self, schema: FeatureSchema) -> None:
        """Make tables and model for a schema; a second call does nothing.

        Raises:
            FeatureConfigError: the feature file cannot serve this task.
            ValueError: the model cannot be built on these features.
        """
        if self._schema is not None:
            return
        self._schema = schema
        self.embedder = Embedder(self.logical_tables(schema), config=self.tables_config)
        # Layers start alike whatever was drawn before them.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(salt("layers", self.seed) & 0x7FFFFFFF)
            self.layout = field_layout(schema, self.embedder)
            self.build_model(self.layout)

    def logical_tables(self, schema: FeatureSchema) -> tuple[LogicalTable, ...]:
        """The tables to make: those of the feature file."""
        return logical_tables(schema)

    @abstractmethod
    def build_model(self, layout: FieldLayout) -> None:
        """Make the layers and metrics."""

    @property
    @abstractmethod
    def monitor(self) -> str:
        """The metric that says which checkpoint is best; the higher the better."""

    @property
    def schema(self) -> FeatureSchema:
        """The schema it was built for."""
        assert self._schema is not None, "build() comes first"
        return self._schema

    def configure_model(self) -> None:
        """Build from the data module's schema, where nobody has done so before."""
        self.build(self.trainer.datamodule.schema)  # pyright: ignore[reportAttributeAccessIssue]

    def configure_optimizers(self) -> Any:
        """The dense optimiser; sharded tables have theirs inside the backward pass."""
        optimizer = dense_optimizer(self.optimizer_factory, model=self, embedder=self.embedder)
        if self.scheduler_factory is None:
            return optimizer
        scheduler = self.scheduler_factory(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise RunConfigError(
                "model.init_args.scheduler: follows the steps, not a metric, got "
                "ReduceLROnPlateau; allowed those of torch.optim.lr_scheduler that step without "
                "one; choose one, and run.patience to stop by the metric"
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # ------------------------------------------------------------------------------- running
    def on_fit_start(self) -> None:
        """Check the settings, where nobody has done so before."""
        self.check_settings(self.trainer)

    def check_inputs(self) -> None:
        """Refuse what the model's settings name wrongly, before any data is read.

        Raises:
            RecsysError: with all such mistakes.
        """

    def check_settings(self, trainer: Trainer) -> None:
        """Refuse what would train wrongly without a word.

        Raises:
            RunConfigError: with all such settings.
        """
        norms = [n for n, m in self.named_modules() if isinstance(m, torch.nn.BatchNorm1d)]
        if norms and trainer.world_size > 1:
            raise RunConfigError(
                f"{norms[0]}: batch norm sees only a process's part of the batch, got "
                f"{trainer.world_size} processes; allowed 1; set batch_norm: false"
            )
        if trainer.precision == "16-mixed" and self.embedder.updated_by_schemes():
            raise RunConfigError(
                "trainer.precision: fp16 scaling would scale the gradients that schemes of tables "
                "use, got 16-mixed; allowed 32-true, bf16-mixed; choose one"
            )
        if not self.embedder.sharded_tables():
            return
        check_optimizer(self.tables_config, device=trainer.strategy.root_device.type)
        mistakes = []
        if self.tables_config.weight_decay:
            names = ", ".join(table.name for table in self.embedder.sharded_tables())
            mistakes.append(
                f"tables.weight_decay: kernels of sharded tables know none, got "
                f"{self.tables_config.weight_decay} and the sharded tables {names}; allowed 0; "
                f"leave it out, or replicate the tables with tables.dense_max_bytes"
            )
        if trainer.precision == "16-mixed":
            mistakes.append(
                "trainer.precision: fp16 scaling would scale the gradients of sharded tables, got "
                "16-mixed; allowed 32-true, bf16-mixed; choose one"
            )
        if trainer.accumulate_grad_batches != 1:
            mistakes.append(
                f"trainer.accumulate_grad_batches: sharded tables are updated in every backward "
                f"pass, got {trainer.accumulate_grad_batches}; allowed 1; raise data.batch_size"
            )
        if trainer.gradient_clip_val is not None:
            mistakes.append(
                f"trainer.gradient_clip_val: gradients of sharded tables cannot be clipped, got "
                f"{trainer.gradient_clip_val}; allowed null; leave it out, or replicate the "
                f"tables with tables.dense_max_bytes"
            )
        if mistakes:
            raise RunConfigError(mistakes)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Fix the random numbers of this step, so that a resumed run repeats them."""
        place = (self.current_epoch, batch_idx, self.global_rank)
        seed = salt("step", self.seed, *place) & 0x7FFFFFFF
        # Not torch.manual_seed: it spends a millisecond on tracing its caller.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def on_train_start(self) -> None:
        """Let schemes see the values that training begins with; a checkpoint is loaded by now.

        Raises:
            RunConfigError: training would end before a table is what the feature file asks for.
        """
        self._check_length(self.trainer.estimated_stepping_batches)
        self._say_how_rows_are_rounded()
        self._after_steps = self.after_steps()
        if have_finished(self.embedder.schemes.values()):  # a warm-up resumed behind its last step
            self.trainer.should_stop = True
        self._before_views = before_views(self.embedder)

    def after_steps(self) -> tuple[AfterStep, ...]:
        """What is done after every step of the optimiser, from these values on."""
        return after_steps(self.embedder)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step, then let schemes change their tables, before anybody reads or saves them."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for after_step in self._after_steps:
            after_step(self.global_step)

    def on_validation_start(self) -> None:
        """Evaluate what would be saved."""
        self.before_view()

    def before_view(self) -> None:
        """Let schemes bring their tables, in training, to what may be evaluated and saved."""
        for before_view in self._before_views:
            before_view(self.global_step)

    @property
    def is_settled(self) -> bool:
        """Whether all tables are what the feature file asks for, so that validations count."""
        return self.global_step >= self.settled_after

    def _say_how_rows_are_rounded(self) -> None:
        on_cpu = self.device.type == "cpu" and self.trainer.is_global_zero
        if on_cpu and self.tables_config.row_dtype == "fp16" and self.embedder.sharded_tables():
            _log.warning(
                "tables.row_dtype: on a CPU fp16 rows are rounded to the nearest number at every "
                "update, so updates below half of a number's last place (1/4096 to 1/2048 of it) "
                "are lost; see docs/planning.md"
            )

    @property
    def settled_after(self) -> int:
        """Steps after which they are."""
        return max(self.embedder.settled_after().values(), default=0)

    def _check_length(self, num_steps: int | float) -> None:
        mistakes = [
            f"trainer: training ends after {num_steps} steps, before tables.{name} meets its "
            f"budget, got max_epochs {self.trainer.max_epochs} and max_steps "
            f"{self.trainer.max_steps}; allowed {least} steps and more; train longer, or change "
            f"the pace of the table in the feature file"
            for name, least in self.embedder.settled_after().items()
            if num_steps < least
        ]
        if mistakes:
            raise RunConfigError(mistakes)
        if self.settled_after and self.trainer.is_global_zero:
            _log.info(
                "validations count after step %d, when tables meet their budgets",
                self.settled_after,
            )

    @abstractmethod
    def begin_step(self, batch: Batch, *, step: int) -> BegunStep:
        """Do of `training_step` what follows from the batch, and reads nothing that training moves.

        Args:
            batch: On the device.
            step: Number of the step, `global_step` when it is taken.
        """

    def taken_up(self, batch: Batch) -> Any:
        """What was begun of the training step of a batch, given once; None: nothing was."""
        begun, self.begun = self.begun, None
        return begun[1] if begun is not None and begun[0] is batch else None

    def with_penalty(self, loss: Tensor) -> Tensor:
        """The loss of a step, and what the schemes of tables add to it."""
        penalty = self.embedder.penalty()
        return loss if penalty is None else loss + penalty

    def log_loss(self, loss: Tensor, *, num_examples: int) -> None:
        """Log the loss of the global batch at the steps that the trainer's loggers write."""
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if (self.global_step + 1) % every == 0 or self.trainer.is_last_batch:
            self.log(
                "train/loss",
                loss.detach(),
                prog_bar=True,
                batch_size=num_examples,
                sync_dist=True,
            )

    @abstractmethod
    def collect(self, batch: Batch, *, split: str) -> None:
        """Take a batch of a split into its metrics."""

    @abstractmethod
    def compute(self, *, split: str) -> dict[str, Tensor]:
        """The metrics of all batches of a split, over all ranks; begins anew."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect."""
        self._collect(batch, split="val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect."""
        self._collect(batch, split="test")

    def _collect(self, batch: Batch, *, split: str) -> None:
        """In full precision, as a bundle scores: scores of 16 bits are often the same."""
        with torch.autocast(self.device.type, enabled=False):
            self.collect(batch, split=split)

    def on_validation_epoch_end(self) -> None:
        """Compute and log."""
        self._log_metrics(split="val")

        gauges = {f"tables/{name}": v for name, v in self.embedder.gauges().items()}
        self.log_dict(gauges, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Compute and log."""
        self._log_metrics(split="test")

    def _log_metrics(self, *, split: str) -> None:
        values = {f"{split}/{name}": v.float() for name, v in self.compute(split=split).items()}
        # Every rank has the same values already; sync_dist only spares Lightning's warning.
        self.log_dict(values, sync_dist=True)

    @property
    def batch_in_epoch(self) -> int:
        """Batches of this epoch that have been used."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def check_schema(self, manifest: Manifest, *, where: str) -> None:
        """Refuse a checkpoint whose ids or rows mean something else.

        Raises:
            SchemaMismatchError: features are encoded in another way.
            CheckpointMismatchError: tables are laid out in another way.
        """
        if manifest.schema_fingerprint != self.schema.fingerprint():
            raise SchemaMismatchError(
                f"{where}: was trained under another feature schema, got fingerprint "
                f"{manifest.schema_fingerprint[:12]}; allowed {self.schema.fingerprint()[:12]}, "
                f"that of the present feature file and data; use the feature file and data of the "
                f"checkpoint, or train anew"
            )
        meanings = self.embedder.row_meanings()
        mistakes = [
            f"{where}: tables.{name}: its rows belong to other ids, got "
            f"{json.dumps(manifest.row_meanings[name])}; allowed {json.dumps(meaning)}, that of "
            f"the present feature file; use the feature file of the checkpoint, or train anew"
            for name, meaning in meanings.items()
            if manifest.row_meanings.get(name, meaning) != meaning
        ]
        if mistakes:
            raise CheckpointMismatchError(mistakes)

    def table_sizes(self) -> dict[str, tuple[int, int]]:
        """Rows and width of every physical table."""
        tables = [*self.embedder.replicated_tables(), *self.embedder.sharded_tables()]
        return {table.name: (table.num_rows, table.dim) for table in tables}
