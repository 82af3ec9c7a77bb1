"""The ranking task: one or several binary labels per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from lightning import Trainer
from torch import Tensor

from features.errors import FeatureConfigError, RunConfigError
from features.table_spec import DecoupledTable
from recsys.losses import binary_cross_entropy
from recsys.metrics import RankingMetrics
from recsys.nn.searching_ranker import SearchingRanker
from recsys.protocols import Ranker
from recsys.tables.config import TablesConfig
from recsys.tables.staged import SearchedScheme
from recsys.training.compiler import check_compiler
from recsys.training.dense_optimizer import OptimizerFactory
from recsys.training.task import BegunStep, SchedulerFactory, Task
from recsys.two_stages import embed_kept
from recsys.types import Batch, Embedded, FieldLayout


class RankingTask(Task):
    """Trains a ranker on labelled examples with binary cross-entropy.

    Args:
        ranker: The model, such as DCNv2, with its hyper-parameters.
        optimizer: Trains all but the sharded tables.
        scheduler: Changes the learning rate each step.
        tables: Where tables live and how the sharded ones are updated.
        seed: Of layers and dropout.
        compile: Whether the ranker is compiled when training starts.
    """

    reads: ClassVar[Literal["ranking", "sequence"]] = "ranking"

    def __init__(
        self,
        *,
        ranker: Callable[[FieldLayout], Ranker],
        optimizer: OptimizerFactory = torch.optim.Adam,
        scheduler: SchedulerFactory | None = None,
        tables: TablesConfig = TablesConfig(),  # noqa: B008  frozen
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler, tables=tables, seed=seed)
        self.ranker_factory = ranker
        self.compiles = compile

    def build_model(self, layout: FieldLayout) -> None:
        """Make the ranker and a set of metrics per label.

        Raises:
            FeatureConfigError: there is no label, or nothing to predict it from.
        """
        if not layout.labels:
            raise FeatureConfigError(
                "label: a ranking task needs a label, got none; add "
                "`label: {name: ..., expr: ...}` to the feature file"
            )
        if layout.width == 0:
            raise FeatureConfigError(
                "features: a ranking task needs a pooled or dense feature, got none; add one, or "
                "give the sequence `pooling: mean`"
            )
        self.labels = layout.labels
        self.ranker = self.ranker_factory(layout)
        if layout.sequences and not self.ranker.reads_histories:
            raise FeatureConfigError(
                f"features: {type(self.ranker).__name__} reads one vector per feature, got the "
                f"unpooled {', '.join(layout.sequences)}; set `pooling: mean` or `sum` on the "
                f"sequence, or take a model that reads histories, such as DARE"
            )
        self._check_searched()
        self._check_equal_values()
        self.metrics = torch.nn.ModuleDict(
            {
                f"{split}_{label}": RankingMetrics()
                for split in ("val", "test")
                for label in self.labels
            }
        )

    def check_settings(self, trainer: Trainer) -> None:
        """Refuse what would train wrongly without a word, and to compile what cannot be.

        Raises:
            RunConfigError: with all such settings.
        """
        super().check_settings(trainer)
        if self.compiles:
            check_compiler(trainer.strategy.root_device.type)
            if type(self.ranker).training_logits is not Ranker.training_logits:
                raise RunConfigError(
                    f"model.compile: {type(self.ranker).__name__} trains by parts of itself, which "
                    f"are not compiled, got true; allowed false; leave it out"
                )

    def on_fit_start(self) -> None:
        """Check the settings, where nobody has done so before, and compile."""
        super().on_fit_start()
        if self.compiles:
            # In place, so that names of weights stay; the last batch of an epoch is smaller.
            self.ranker.compile(dynamic=True)

    @property
    def monitor(self) -> str:
        """AUC of the first label."""
        return f"val/auc/{self.schema.feature_set.labels[0]}"

    @property
    def searching(self) -> SearchingRanker | None:
        """The ranker, if it keeps but some events of a history."""
        ranker = self.ranker
        if isinstance(ranker, SearchingRanker) and ranker.max_kept is not None:
            return ranker
        return None

    def forward(self, batch: Batch) -> Tensor:
        """Give logits_BT; outside of training, what a search does not keep is not looked up."""
        searching = self.searching
        if self.training or searching is None:
            return self.ranker(self.embedder(batch))
        embedded = embed_kept(
            self.embedder, batch, columns=searching.columns, search=searching.kept
        )
        return searching(embedded)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss."""
        losses = self.losses(self.embedder(batch, begun=self.taken_up(batch)), batch)
        self.log_loss(losses[0], num_examples=len(batch))
        return self.with_penalty(torch.stack(losses).sum())

    def begin_step(self, batch: Batch, *, step: int) -> BegunStep:
        """Find the rows of all ids."""
        return self.embedder.begin(batch)

    def losses(self, embedded: Embedded, batch: Batch) -> list[Tensor]:
        """The loss, and those of heads that only help in training; training minimises their sum."""
        return [
            binary_cross_entropy(logits_BT, batch.labels_BT, batch.weights_B)
            for logits_BT in self.ranker.training_logits(embedded)
        ]

    def collect(self, batch: Batch, *, split: str) -> None:
        """Keep predictions beside labels."""
        logits_BT = self(batch).float()
        for column, label in enumerate(self.labels):
            self._metrics(split, label).update(
                logits_BT[:, column], batch.labels_BT[:, column], batch.weights_B, batch.users_B
            )

    def compute(self, *, split: str) -> dict[str, Tensor]:
        """Metrics of every label, by `name/label`."""
        values: dict[str, Tensor] = {}
        for label in self.labels:
            metrics = self._metrics(split, label)
            values |= {f"{name}/{label}": value for name, value in metrics.compute().items()}
            metrics.reset()
        return values

    def _check_searched(self) -> None:
        schemes = self.embedder.schemes.items()
        searched = [name for name, scheme in schemes if isinstance(scheme, SearchedScheme)]
        if searched and self.ranker.reads_histories:
            raise FeatureConfigError(
                f"tables.{searched[0]}: widths are searched for rankers that read no histories, "
                f"got {type(self.ranker).__name__}; take another scheme, or another ranker"
            )

    def _check_equal_values(self) -> None:
        """Refuse a search for equal vectors of tables that have one for targets, one for events."""
        if not isinstance(self.ranker, SearchingRanker):
            return
        tables = self.schema.feature_set.resolved_tables()
        for name in self.ranker.equal_columns:
            of = self.schema.feature_set.table_of(name)
            table = tables[of]
            if isinstance(table, DecoupledTable) and table.separate_target:
                raise FeatureConfigError(
                    f"tables.{of}.separate_target: no event would have the vector of its target, "
                    f"got true with search same_value; set it to false, or take another search"
                )

    def _metrics(self, split: str, label: str) -> RankingMetrics:
        metrics = self.metrics[f"{split}_{label}"]
        assert isinstance(metrics, RankingMetrics)
        return metrics
