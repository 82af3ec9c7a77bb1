"""The sequence task: rank the catalogue by what a user is to choose next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from lightning import Trainer
from torch import Tensor

from features.errors import FeatureConfigError, RunConfigError
from features.schema import FeatureSchema
from recsys.bundle_items import BundleItems, items_of_bundle
from recsys.data.item_sequence import ItemSequence
from recsys.item_names import item_names
from recsys.losses import FullSoftmax, SampledLoss
from recsys.metrics import CatalogueMetrics, rank_targets, remove_seen, top_k
from recsys.nn.catalogue import catalogue_scores
from recsys.nn.tokens import Tokens, count_within, is_first, is_last
from recsys.protocols import SequenceEncoder, SequenceLoss
from recsys.tables.config import TablesConfig
from recsys.tables.hashing import salt
from recsys.tables.logical import OUTPUT, LogicalTable, logical_tables, with_output
from recsys.tables.scheme import AfterStep
from recsys.training.dense_optimizer import OptimizerFactory
from recsys.training.kept_items import KeptItems
from recsys.training.masks import cloze_masks, token_chances
from recsys.training.negatives import ItemPopularity, draw_negatives
from recsys.training.older_items import OPTION, CompatibleWith, PulledItems
from recsys.training.sequence_features import check_features, check_prefixes
from recsys.training.sequence_step import SequenceStep, sampled_losses, share_of_all
from recsys.training.task import BegunStep, SchedulerFactory, Task
from recsys.types import Batch, FieldLayout, Jagged

ItemOutput = Literal["tied", "separate"]

# Scores of this many items are held at once in evaluation: 256 MB.
_MAX_SCORES = 1 << 26


class SequenceTask(Task):
    """Trains a sequence encoder over item histories to rank the catalogue.

    Args:
        encoder: The model, such as SASRec, with its hyper-parameters.
        loss: What predictions are compared with: the whole catalogue, or sampled items; null for
            the encoder's own.
        item_output: `tied`: items are scored by the vectors that histories are made of;
            `separate`: by a second table of the same kind.
        optimizer: Trains all but the sharded tables.
        scheduler: Changes the learning rate each step.
        tables: Where tables live.
        mask_share: Share of items masked in training, for encoders with the cloze objective.
        last_only_share: Share of sequences of which only the last item is masked, the case that
            evaluation asks for; cloze objective only.
        shuffle_ties: Whether the events of one second (a basket, a page of ratings) come in another
            order at every training step, since the order in which they are stored means nothing;
            the sequence needs `times`.
        prefix_widths: Widths at which the first numbers of vectors are to serve alone: the loss is
            the sum of those at each, and at the full width.
        prefix_weights: Of the losses at these widths, beside 1 at the full one. Empty: 1 each.
        compatible_with: Older bundle whose vectors items of the same raw ids stay at or near, so
            that its index serves this model's users. None: none.
        ks: Lengths of the lists that are evaluated; the last one picks the best checkpoint.
        seed: Of layers, dropout, masks and negatives.

    Source: Kang and McAuley, SASRec (2018); Sun et al., BERT4Rec (2019), section 3.6, whose extra
    sequences with the last item masked are drawn here instead of stored. Kusupati et al.,
    Matryoshka Representation Learning (2022), https://arxiv.org/abs/2205.13147, equation 1, for the
    widths; users and items are cut alike.
    """

    reads: ClassVar[Literal["ranking", "sequence"]] = "sequence"

    def __init__(
        self,
        *,
        encoder: Callable[[FieldLayout], SequenceEncoder],
        loss: SequenceLoss | None = None,
        item_output: ItemOutput = "tied",
        optimizer: OptimizerFactory = torch.optim.Adam,
        scheduler: SchedulerFactory | None = None,
        tables: TablesConfig = TablesConfig(),  # noqa: B008  frozen
        mask_share: float = 0.2,
        last_only_share: float = 0.1,
        shuffle_ties: bool = False,
        prefix_widths: tuple[int, ...] = (),
        prefix_weights: tuple[float, ...] = (),
        compatible_with: CompatibleWith | None = None,
        ks: tuple[int, ...] = (10,),
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler, tables=tables, seed=seed)
        mistakes = [
            f"model.{name}: is no share, got {value}; allowed 0 to 1"
            for name, value in (("mask_share", mask_share), ("last_only_share", last_only_share))
            if not 0 <= value <= 1
        ]
        if item_output not in get_args(ItemOutput):
            mistakes.append(
                f"model.item_output: is unknown, got {item_output!r}; allowed tied, separate"
            )
        if mistakes:
            raise RunConfigError(mistakes)
        self.encoder_factory = encoder
        self.loss = loss
        self.item_output: ItemOutput = item_output
        self.mask_share = mask_share
        self.last_only_share = last_only_share
        self.shuffle_ties = shuffle_ties
        self.prefix_widths, self.prefix_weights = prefix_widths, prefix_weights
        self.compatible_with = compatible_with
        self.pulled_items: PulledItems | None = None
        self.kept_items: KeptItems | None = None
        self._older: BundleItems | None = None
        self.ks = ks
        self.popularity: ItemPopularity | None = None
        self._items: Tensor | None = None

    # --------------------------------------------------------------------------------- build
    def logical_tables(self, schema: FeatureSchema) -> tuple[LogicalTable, ...]:
        """The tables of the feature file, and that of the output where it is a separate one."""
        tables = logical_tables(schema)
        decoupled = [table.name for table in tables if "@" in table.name]
        if decoupled:
            raise FeatureConfigError(
                f"tables.{decoupled[0].partition('@')[0]}.scheme: a sequence model reads one "
                f"vector per event, got decoupled; take another scheme, or a ranker such as DARE"
            )
        if self.item_output == "tied":
            return tables
        items = ItemSequence.of(schema.feature_set)
        return with_output(tables, of=items.keys[0])

    def build_model(self, layout: FieldLayout) -> None:
        """Make the encoder and the metrics.

        Raises:
            FeatureConfigError: there is no item catalogue, or not one sequence of its items.
        """
        feature_set = self.schema.feature_set
        items = ItemSequence.of(feature_set)
        check_features(items, layout, weight=feature_set.weight, shuffle_ties=self.shuffle_ties)
        self.keys, self.time_key = items.keys, items.time_key
        self.key = self.keys[0]
        self.candidates_key = self.key if self.item_output == "tied" else OUTPUT
        width = layout.sequences[self.key]
        check_prefixes(self.prefix_widths, self.prefix_weights, width=width)
        self.widths = (*self.prefix_widths, width)
        self.loss_weights = (*(self.prefix_weights or [1.0] * len(self.prefix_widths)), 1.0)
        self.item = items.item
        self.num_items = layout.num_items
        self.max_length = items.feature.max_length
        self.encoder = self.encoder_factory(
            replace(
                layout,
                sequences={key: layout.sequences[key] for key in self.keys},
                has_times=self.time_key is not None,
            )
        )
        self.loss = self.loss or self.encoder.loss
        self.metrics = torch.nn.ModuleDict(
            {
                split: CatalogueMetrics(ks=self.ks, num_items=self.num_items)
                for split in ("on_val", "on_test")
            }
        )

    def check_inputs(self) -> None:
        """Read the older bundle, where there is one."""
        if self.compatible_with is not None:
            self._older = items_of_bundle(Path(self.compatible_with.bundle), option=OPTION)

    def check_settings(self, trainer: Trainer) -> None:
        """Refuse what would train wrongly without a word, and losses that the tables cannot serve.

        Raises:
            RunConfigError: with all such settings.
        """
        super().check_settings(trainer)
        mistake = self.embedder.check_catalogue(self.candidates_key)
        if mistake is not None and isinstance(self.loss, FullSoftmax):
            raise RunConfigError(mistake)
        if self._older is None:
            self.check_inputs()
        if self._older is not None:
            self._take_older(self._older)

    def _take_older(self, older: BundleItems) -> None:
        assert self.compatible_with is not None
        names, has_bias = item_names(self.schema), self.encoder.item_bias_V is not None
        if self.compatible_with.how == "keep":
            kept = KeptItems.of(older, names, widths=self.widths, has_bias=has_bias)
            kept.check(self.embedder, key=self.candidates_key)
            self.kept_items = kept
        elif self.pulled_items is None:
            weight = self.compatible_with.weight
            pulled = PulledItems(older, names, widths=self.widths, has_bias=has_bias, weight=weight)
            self.pulled_items = pulled.to(self.device)

    def on_fit_start(self) -> None:
        """Check the settings, and count the items where negatives are drawn by popularity."""
        super().on_fit_start()
        if isinstance(self.loss, SampledLoss) and self.loss.negatives_from == "popularity":
            counts_V = self.trainer.datamodule.item_counts()  # pyright: ignore[reportAttributeAccessIssue]
            self.popularity = ItemPopularity(torch.from_numpy(counts_V)).to(self.device)

    def after_steps(self) -> tuple[AfterStep, ...]:
        """What schemes want, and that kept items stay where they are."""
        if self.kept_items is None:
            return super().after_steps()
        give_back = self.kept_items.after_step(self.embedder, key=self.candidates_key)
        give_back(self.global_step)
        return (*super().after_steps(), give_back)

    @property
    def monitor(self) -> str:
        """NDCG at the last k."""
        return f"val/ndcg@{self.ks[-1]}"

    # ------------------------------------------------------------------------------ training
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss."""
        asked = self.taken_up(batch) or self._asked(batch, step=self.global_step)
        if asked.begun is None:
            vectors = self.embedder.sequences(asked.keyed)
        else:
            vectors = self.embedder.begun_sequences(asked.begun)
        vectors_MD = self._predict(asked, vectors)
        if asked.negatives is None:
            assert isinstance(self.loss, FullSoftmax)
            items = self.embedder.catalogue(self.candidates_key, num_ids=self.num_items)
            ids = torch.arange(self.num_items, device=self.device)
            bias_V = self.encoder.item_bias_V
            losses = [
                self.loss(vectors_MD[:, :width], items[:, :width], asked.targets_M, bias_V=bias_V)
                for width in self.widths
            ]
        else:
            assert isinstance(self.loss, SampledLoss)
            items, ids = asked.of_candidates(vectors[self.candidates_key].values_LD)
            losses = sampled_losses(
                self.loss,
                asked,
                vectors_MD=vectors_MD,
                items_TD=items,
                widths=self.widths,
                bias_V=self.encoder.item_bias_V,
                num_items=self.num_items,
            )
        weighted = zip(self.loss_weights, losses, strict=True)
        loss = torch.stack([weight * loss for weight, loss in weighted]).sum()
        world_size = self.trainer.world_size
        loss = loss * share_of_all((asked.targets_M > 0).sum(), world_size=world_size)
        if self.pulled_items is not None:
            pull, count = self.pulled_items(items, ids)
            loss = loss + pull * share_of_all(count, world_size=world_size)
        self.log_loss(loss, num_examples=len(batch))
        return self.with_penalty(loss)

    def begin_step(self, batch: Batch, *, step: int) -> BegunStep:
        """Draw masks and negatives, and find the rows of all ids."""
        asked = self._asked(batch, step=step)
        return replace(asked, begun=self.embedder.begin_sequences(asked.keyed))

    def _asked(self, batch: Batch, *, step: int) -> SequenceStep:
        """What a step asks for; nothing that training changes is read."""
        tokens = self._tokens(batch)
        if self.shuffle_ties:
            ties = salt("ties", self.seed, step)
            _, chance_L = token_chances(batch.users_B, tokens.lengths_B, salt=ties)
            tokens = tokens.with_ties_shuffled(chance_L)
        masked_M = None
        if self.encoder.objective == "cloze":
            inputs = tokens = tokens.most_recent(self.max_length)
            wanted_L = cloze_masks(
                batch.users_B,
                tokens.lengths_B,
                share=self.mask_share,
                last_only_share=self.last_only_share,
                salt=salt("mask", self.seed, step),
            )
            masked_M = wanted_L.nonzero().squeeze(1)
        else:
            wanted_L = ~is_first(tokens.lengths_B)
            inputs = tokens.without_last()
        is_real_L = (batch.weights_B > 0).repeat_interleave(
            tokens.lengths_B, output_size=len(wanted_L)
        )
        targets_M = (tokens.items_L * is_real_L)[wanted_L]
        negatives = ids = None
        if isinstance(self.loss, SampledLoss):
            negatives = draw_negatives(
                batch.users_B,
                count_within(wanted_L, tokens.lengths_B),
                num_items=self.num_items,
                count=self.loss.num_negatives,
                per=self.loss.negatives_per,
                salt=salt("negatives", self.seed, step),
                popularity=self.popularity,
            )
            ids = torch.cat([targets_M, negatives.ids_SK.flatten()])
        keyed = inputs.keyed() if ids is None else inputs.keyed({self.candidates_key: ids})
        return SequenceStep(inputs, wanted_L, masked_M, targets_M, negatives, ids, keyed)

    def _predict(self, asked: SequenceStep, vectors: Mapping[str, Jagged]) -> Tensor:
        """Vectors (M, D) that predict the targets, to be compared with items."""
        history = asked.inputs.history(vectors)
        if asked.masked_M is None:
            return self.encoder.head(self.encoder(history))
        masked = self.encoder.mask(history, asked.wanted_L)
        return self.encoder.head(self.encoder(masked, asked.masked_M))

    # ---------------------------------------------------------------------------- evaluation
    def forward(self, batch: Batch, *, width: int | None = None) -> Tensor:
        """Scores of the whole catalogue for what comes after each history, (B, V).

        Args:
            batch: Histories.
            width: First numbers of vectors that count. None: all.
        """
        items_VD = self.embedder.catalogue(self.candidates_key, num_ids=self.num_items)
        return catalogue_scores(self.encoder, self._ask(batch), items_VD[:, :width])

    @torch.no_grad()
    def item_vectors_VD(self, *, width: int | None = None) -> Tensor:
        """What items are scored by, without their bias.

        Args:
            width: First numbers that count. None: all.
        """
        items_VD = self.embedder.catalogue(self.candidates_key, num_ids=self.num_items)
        return items_VD[:, :width]

    def _ask(self, batch: Batch) -> Tensor:
        """Hidden vectors (B, D) of what comes after each history."""
        objective = self.encoder.objective
        tokens = self._tokens(batch).as_question(objective, max_length=self.max_length)
        history = tokens.history(self.embedder.sequences(tokens.keyed()))
        if objective == "cloze":
            history = self.encoder.mask(history, is_last(tokens.lengths_B))
        return self.encoder(history, tokens.lengths_B.cumsum(0) - 1)

    def collect(self, batch: Batch, *, split: str) -> None:
        """Rank the catalogue."""
        hidden_BD, items_VD = self._ask(batch), self._items
        if items_VD is None:
            items_VD = self.embedder.catalogue(self.candidates_key, num_ids=self.num_items)
        most = max(1, _MAX_SCORES // self.num_items)
        seen = batch.seen_values.split(batch.seen_lengths_B.tolist())
        for start in range(0, len(batch), most):
            part = slice(start, start + most)
            scores = catalogue_scores(self.encoder, hidden_BD[part], items_VD).float()
            scores = remove_seen(
                scores,
                batch.targets_B[part],
                torch.cat(seen[part]),
                batch.seen_lengths_B[part],
            )[batch.weights_B[part] > 0]
            targets = batch.targets_B[part][batch.weights_B[part] > 0]
            self._metrics(split).update(rank_targets(scores, targets), top_k(scores, max(self.ks)))

    def on_validation_epoch_start(self) -> None:
        """Look the catalogue up."""
        self._items = self.item_vectors_VD()

    def on_test_epoch_start(self) -> None:
        """Look the catalogue up."""
        self._items = self.item_vectors_VD()

    def compute(self, *, split: str) -> dict[str, Tensor]:
        """Metrics at every k."""
        self._items = None
        metrics = self._metrics(split)
        values = metrics.compute()
        metrics.reset()
        return values

    # ------------------------------------------------------------------------------ inside
    def _tokens(self, batch: Batch) -> Tokens:
        assert batch.sequences is not None
        self.embedder.check(batch)  # before it is taken apart
        return Tokens.of(batch.sequences, keys=self.keys, time_key=self.time_key)

    def _metrics(self, split: str) -> CatalogueMetrics:
        metrics = self.metrics[f"on_{split}"]
        assert isinstance(metrics, CatalogueMetrics)
        return metrics
