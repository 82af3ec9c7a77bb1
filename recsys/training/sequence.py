"""The sequence task: rank the catalogue by what a user is to choose next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import FeatureConfigError, RunConfigError
from recsys.losses import full_softmax
from recsys.metrics import CatalogueMetrics, rank_targets, remove_seen, top_k
from recsys.nn.catalogue import catalogue_scores
from recsys.nn.tokens import as_question, is_first, is_last, keep_last
from recsys.protocols import SequenceEncoder
from recsys.tables.config import TablesConfig
from recsys.tables.hashing import salt
from recsys.training.masks import cloze_masks
from recsys.training.task import OptimizerFactory, SchedulerFactory, Task
from recsys.types import Batch, FieldLayout, Jagged


class SequenceTask(Task):
    """Trains a sequence encoder over item histories with the softmax over the whole catalogue.

    Args:
        encoder: The model, such as SASRec, with its hyper-parameters.
        optimizer: Trains all but the sharded tables.
        scheduler: Changes the learning rate each step.
        tables: Where tables live; the item table must be a replicated one.
        mask_share: Share of items masked in training, for encoders with the cloze objective.
        last_only_share: Share of sequences of which only the last item is masked, the case that
            evaluation asks for; cloze objective only.
        ks: Lengths of the lists that are evaluated; the last one picks the best checkpoint.
        seed: Of layers, dropout and masks.

    Source: Kang and McAuley, SASRec (2018); Sun et al., BERT4Rec (2019), section 3.6, whose extra
    sequences with the last item masked are drawn here instead of stored.
    """

    reads: ClassVar[Literal["ranking", "sequence"]] = "sequence"

    def __init__(
        self,
        *,
        encoder: Callable[[FieldLayout], SequenceEncoder],
        optimizer: OptimizerFactory = torch.optim.Adam,
        scheduler: SchedulerFactory | None = None,
        tables: TablesConfig = TablesConfig(),  # noqa: B008  frozen
        mask_share: float = 0.2,
        last_only_share: float = 0.1,
        ks: tuple[int, ...] = (10,),
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler, tables=tables, seed=seed)
        mistakes = [
            f"model.{name}: is no share, got {value}; allowed 0 to 1"
            for name, value in (("mask_share", mask_share), ("last_only_share", last_only_share))
            if not 0 <= value <= 1
        ]
        if mistakes:
            raise RunConfigError(mistakes)
        self.encoder_factory = encoder
        self.mask_share = mask_share
        self.last_only_share = last_only_share
        self.ks = ks

    def build_model(self, layout: FieldLayout) -> None:
        """Make the encoder and the metrics.

        Raises:
            FeatureConfigError: there is no item catalogue, or not one sequence of its items.
        """
        item = self.schema.feature_set.entity.item
        keys = [key for key in layout.sequences if key.split(".")[-1] == item]
        if layout.num_items == 0 or len(keys) != 1 or len(layout.sequences) != 1:
            raise FeatureConfigError(
                f"features: a sequence task needs entity.item, a categorical feature of that name "
                f"and one sequence of it, got item {item!r} and sequences "
                f"{list(layout.sequences) or 'none'}; see configs/features/ml1m_sequence.yaml"
            )
        unread = [name for name in layout.fields if name != item]
        if unread or layout.num_dense:
            raise FeatureConfigError(
                f"features: a sequence task reads items alone, got also "
                f"{', '.join(unread) or 'dense features'}; drop them from the feature file"
            )
        [self.key] = keys
        self.item = item
        self.num_items = layout.num_items
        self.max_length = layout.max_lengths[self.key]
        self.encoder = self.encoder_factory(layout)
        self.metrics = torch.nn.ModuleDict(
            {
                split: CatalogueMetrics(ks=self.ks, num_items=self.num_items)
                for split in ("on_val", "on_test")
            }
        )

    @property
    def monitor(self) -> str:
        """NDCG at the last k."""
        return f"val/ndcg@{self.ks[-1]}"

    def forward(self, batch: Batch) -> Tensor:
        """Scores of the whole catalogue for what comes after each history, (B, V)."""
        objective = self.encoder.objective
        ids, lengths_B = as_question(
            *self._ids(batch), objective=objective, max_length=self.max_length
        )
        items = self._embed(batch, ids, lengths_B)
        if objective == "cloze":
            items = self.encoder.mask(items, is_last(lengths_B))
        hidden_LD = self.encoder(items)
        return catalogue_scores(self.encoder, hidden_LD[is_last(lengths_B)], self._catalogue())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss."""
        ids, lengths_B = self._ids(batch)
        if self.encoder.objective == "cloze":
            ids, lengths_B = keep_last(ids, lengths_B, self.max_length)
        is_real_L = (batch.weights_B > 0).repeat_interleave(lengths_B, output_size=len(ids))
        if self.encoder.objective == "cloze":
            masked_L = cloze_masks(
                batch.users_B,
                lengths_B,
                share=self.mask_share,
                last_only_share=self.last_only_share,
                salt=salt("mask", self.seed, self.global_step),
            )
            items = self.encoder.mask(self._embed(batch, ids, lengths_B), masked_L)
            targets_L = ids * is_real_L
            hidden_MD, targets_M = self.encoder(items)[masked_L], targets_L[masked_L]
        else:
            inputs_L = ~is_last(lengths_B)
            targets_M = (ids * is_real_L)[~is_first(lengths_B)]
            hidden_MD = self.encoder(
                self._embed(batch, ids[inputs_L], (lengths_B - 1).clamp(min=0))
            )
        vectors_MD, bias_V = self.encoder.head(hidden_MD), self.encoder.item_bias_V
        loss = full_softmax(vectors_MD, self._catalogue(), targets_M, bias_V=bias_V)
        loss = loss * self._share_of_targets(targets_M)
        self.log_loss(loss, num_examples=len(batch))
        return loss

    def collect(self, batch: Batch, *, split: str) -> None:
        """Rank the catalogue."""
        is_real_B = batch.weights_B > 0
        scores_BV = remove_seen(
            self(batch).float(), batch.targets_B, batch.seen_values, batch.seen_lengths_B
        )[is_real_B]
        ranks_B = rank_targets(scores_BV, batch.targets_B[is_real_B])
        self._metrics(split).update(ranks_B, top_k(scores_BV, max(self.ks)))

    def compute(self, *, split: str) -> dict[str, Tensor]:
        """Metrics at every k."""
        metrics = self._metrics(split)
        values = metrics.compute()
        metrics.reset()
        return values

    # ------------------------------------------------------------------------------ inside
    def _ids(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.sequences is not None
        sequence = batch.sequences[self.key]
        return sequence.values(), sequence.lengths()

    def _embed(self, batch: Batch, ids: Tensor, lengths_B: Tensor) -> Jagged:
        sequences = KeyedJaggedTensor(keys=[self.key], values=ids, lengths=lengths_B)
        return self.embedder(replace(batch, ids=None, sequences=sequences)).sequences[self.key]

    def _catalogue(self) -> Tensor:
        return self.embedder.catalogue(self.key, num_ids=self.num_items)

    def _share_of_targets(self, targets_M: Tensor) -> Tensor | float:
        """Makes the mean over ranks of their means the mean over all targets."""
        if self.trainer.world_size == 1:
            return 1.0
        here = (targets_M > 0).sum()
        everywhere = here.clone()
        dist.all_reduce(everywhere)
        return here * self.trainer.world_size / everywhere.clamp(min=1)

    def _metrics(self, split: str) -> CatalogueMetrics:
        metrics = self.metrics[f"on_{split}"]
        assert isinstance(metrics, CatalogueMetrics)
        return metrics
