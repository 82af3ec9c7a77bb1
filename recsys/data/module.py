"""The data of a run, for Lightning."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning import LightningDataModule
from numpy.typing import NDArray

from features import columns
from features.errors import DataError, RunConfigError
from features.load import load_feature_set
from features.plans import with_plans
from features.schema import FeatureSchema
from features.sources import source_files
from features.spec import FeatureSet, Sequence
from recsys.data.collate import Collate, RankingCollate
from recsys.data.epochs import EpochLoader
from recsys.data.item_sequence import ItemSequence
from recsys.data.layout import dense_features
from recsys.data.loader import BatchLoader, check_sizes
from recsys.data.origins import Origins, of_events, of_users
from recsys.data.protocol import protocol_name
from recsys.data.sequences import (
    SequenceEvaluationCollate,
    SequenceTrainingCollate,
    check_training_events,
    count_items,
    evaluation_source,
    training_source,
)
from recsys.data.sources import ParquetSource, RowSource
from recsys.data.store import EncodedStore, prepare, schema_without_building

_USES = {"train": "train on", "val": "validate on (val)", "test": "test on (test)"}


class RecsysData(LightningDataModule):
    """Examples and histories of one feature set, as batches for each rank.

    Args:
        features: Feature file.
        data_dir: Directory of the raw files; `~` and `${VARIABLE}` are replaced.
        batch_size: Examples, or users, of a training step, over all ranks.
        eval_batch_size: The same for validation and test. None: as in training.
        task: `ranking` reads examples with labels, `sequence` whole histories.
        num_workers: Processes per rank that make batches. 0: a thread does.
        seed: Of the order of training rows.
        store: Directory of encoded data, which is built once and found again.
        num_lanes: Ranges of the training rows that are read at once; a multiple of the number of
            ranks.
        max_memory_gib: Memory for rows while encoded data is built.
        window_step: Sequence tasks train on windows of long histories whose ends lie so many
            events apart, at most the sequence's `max_length`. None: on the most recent window
            alone.

    Raises:
        RunConfigError: a number is too small, or a path names a variable that is not set.
        FeatureConfigError: the feature file is wrong.

    Attributes:
        features_file: Where the feature set was read.
        feature_set: What the person wrote.
        data_dir: Directory of the raw files.
        given_schema: What the data is encoded with, of this feature set; None: it is fitted.
    """

    def __init__(
        self,
        features: str,
        data_dir: str,
        *,
        batch_size: int,
        eval_batch_size: int | None = None,
        task: Literal["ranking", "sequence"] = "ranking",
        num_workers: int = 0,
        seed: int = 0,
        store: str = "runs/store",
        num_lanes: int = 8,
        max_memory_gib: float = 4.0,
        window_step: int | None = None,
    ) -> None:
        super().__init__()
        _check_numbers(
            (
                ("eval_batch_size", eval_batch_size, 1),
                ("num_lanes", num_lanes, 1),
                ("window_step", window_step, 1),
                ("num_workers", num_workers, 0),
                ("max_memory_gib", max_memory_gib, 0.1),
            )
        )
        self.features_file = expand_path(features, key="features")
        self.feature_set: FeatureSet = load_feature_set(self.features_file)
        self.data_dir = expand_path(data_dir, key="data_dir")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.task: Literal["ranking", "sequence"] = task
        self.num_workers = num_workers
        self.seed = seed
        self.num_lanes = num_lanes
        self.window_step = window_step
        self._store_root = expand_path(store, key="store")
        self._max_memory_bytes = int(max_memory_gib * 2**30)
        self._store: EncodedStore | None = None
        self.given_schema: FeatureSchema | None = None

    @property
    def store(self) -> EncodedStore:
        """The encoded data; the first call checks, then builds or finds it.

        Raises:
            FeatureConfigError: the feature set does not fit the task.
            RunConfigError: the batch sizes do not divide, or the windows leave events out.
            DataError: the data does not fit the feature set, or the split the task.
        """
        if self._store is None:
            check_sizes(self.batch_size, self.num_lanes, world_size=1, training=True)
            items = ItemSequence.of(self.feature_set) if self.task == "sequence" else None
            _check_window_step(self.window_step, items)
            store = prepare(
                self.feature_set,
                self.data_dir,
                self._store_root,
                max_memory_bytes=self._max_memory_bytes,
                schema=self.given_schema,
            )
            if items is not None:
                check_training_events(store, items)
            self._store = store
        return self._store

    @cached_property
    def schema(self) -> FeatureSchema:
        """What the data is encoded with, and the tables of the present feature file.

        Raises:
            FeatureConfigError: the plan of a table is missing or another's.
        """
        schema = replace(self.store.schema, feature_set=self.feature_set)
        return with_plans(schema, self.features_file.parent)

    def schema_in_advance(self) -> tuple[FeatureSchema, str]:
        """The schema that training will have, without encoding any data, and where it is from.

        It is that of the encoded data where there is some, or else fitted. Where the raw data is
        not here, that of the newest encoded data of the same features.

        Raises:
            FeatureConfigError: the feature file does not fit the task, or a plan is missing.
            DataError: neither the data nor its encoded form is here, or it is wrong.
        """
        if self.task == "sequence":
            _check_window_step(self.window_step, ItemSequence.of(self.feature_set))
        else:
            _check_window_step(self.window_step, None)
        if self.given_schema is not None:
            schema, source = self.given_schema, "that of the run to continue"
        else:
            schema, source = schema_without_building(
                self.feature_set, self.data_dir, self._store_root
            )
        schema = replace(schema, feature_set=self.feature_set)
        return with_plans(schema, self.features_file.parent), source

    def prepare_data(self) -> None:
        """Build the encoded data, once per machine."""
        _ = self.store

    def train_dataloader(self) -> EpochLoader:
        """Batches of this rank, shuffled anew each epoch."""
        loader = self._loader(*self._training(), batch_size=self.batch_size, training=True)
        if not loader.num_rows:
            raise DataError(
                f"{self.data_dir}: no training rows, got 0; allowed 1 and more; "
                f"look at split, sources.events.where and label.where in the feature file"
            )
        return EpochLoader(loader)

    def origin(self, *, epoch: int, batch: int) -> str:
        """Where the rows of a training batch of this rank come from, in words.

        Args:
            epoch: From 0.
            batch: Number within the epoch.
        """
        source, collate = self._training()
        dense = [f.name for f in dense_features(self.feature_set)]
        if self.task == "ranking":
            files = self.store.example_files("train")
            source = ParquetSource(files, columns=[columns.ROW, columns.WEIGHT, *dense])
        loader = self._loader(source, collate, batch_size=self.batch_size, training=True)
        with ThreadPoolExecutor(1) as executor:
            rows = loader.open_epoch(epoch, executor=executor).rows(batch)
        if self.task == "sequence":
            return of_users(rows, store=self.store)
        log = source_files(self.feature_set, self.data_dir)["events"]
        return of_events(rows, files=log, dense=dense)

    def val_dataloader(self) -> BatchLoader:
        """Validation batches of this rank, in file order."""
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> BatchLoader:
        """Test batches of this rank, in file order."""
        return self.evaluation_dataloader("test")

    def evaluation_dataloader(self, split: str, *, batch_size: int | None = None) -> BatchLoader:
        """Batches of a split of this rank, in file order.

        Args:
            split: `val` or `test`.
            batch_size: None: `eval_batch_size`.
        """
        if self.task == "sequence":
            items = ItemSequence.of(self.feature_set)
            source = evaluation_source(self.store, items, split=split)
            collate: Collate = SequenceEvaluationCollate(self.store, items)
        else:
            source, collate = self._ranking(split)
        size = batch_size or self.eval_batch_size
        return self._loader(source, collate, batch_size=size, training=False)

    def item_counts(self) -> NDArray[np.int64]:
        """Training events of each item id; for sequence tasks."""
        return count_items(self.store, ItemSequence.of(self.feature_set))

    def has_split(self, split: str) -> bool:
        """Whether there is an example to evaluate."""
        return self.store.manifest.rows[split] > 0

    def require_examples(self, *splits: str) -> None:
        """Make sure that there is something to train on, or to evaluate.

        Raises:
            DataError: a split is empty.
        """
        mistakes = [
            f"{self.data_dir}: no example to {_USES[split]}, got 0; allowed 1 and more; look at "
            f"split, sources.events.where and label.where in the feature file"
            for split in splits
            if not self.has_split(split)
        ]
        if mistakes:
            raise DataError(mistakes)

    def describe(self) -> dict[str, Any]:
        """What a report must name: the protocol and the data."""
        manifest = self.store.manifest
        return {
            "protocol": protocol_name(self.feature_set, task=self.task),
            "data_fingerprint": manifest.data_fingerprint,
            "schema_fingerprint": manifest.schema_fingerprint,
            "rows": manifest.rows,
        }

    # ------------------------------------------------------------------------------ inside
    def _training(self) -> tuple[RowSource, Collate]:
        if self.task == "ranking":
            return self._ranking("train")
        items = ItemSequence.of(self.feature_set)
        source = training_source(self.store, items, window_step=self.window_step)
        return source, SequenceTrainingCollate(self.store, items)

    def _ranking(self, split: str) -> tuple[ParquetSource, RankingCollate]:
        sequences = self.feature_set.of_kind(Sequence)
        histories = {s.name: self.store.histories_of(s) for s in sequences}
        collate = RankingCollate(self.schema, histories=histories)
        files = self.store.example_files(split)
        return ParquetSource(files, columns=collate.columns), collate

    def _loader(
        self, source: RowSource, collate: Collate, *, batch_size: int, training: bool
    ) -> BatchLoader:
        return BatchLoader(
            source,
            collate=collate,
            batch_size=batch_size,
            training=training,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            num_lanes=self.num_lanes,
            num_workers=self.num_workers,
            origins=Origins(self.store, self.data_dir),
        )


def _check_numbers(numbers: Iterable[tuple[str, float | None, float]]) -> None:
    """Each with its name and the least it may be."""
    mistakes = [
        f"data.{name}: is too small, got {value}; allowed {least} and more"
        for name, value, least in numbers
        if value is not None and value < least
    ]
    if mistakes:
        raise RunConfigError(mistakes)


def _check_window_step(window_step: int | None, items: ItemSequence | None) -> None:
    if window_step is None:
        return
    if items is None:
        raise RunConfigError(
            f"data.window_step: is for sequence tasks, got {window_step}; leave it out"
        )
    if window_step > items.feature.max_length:
        raise RunConfigError(
            f"data.window_step: leaves events out that no window predicts, got {window_step}; "
            f"allowed 1 to {items.feature.max_length}, the max_length of {items.feature.name!r}"
        )


def expand_path(text: str, *, key: str) -> Path:
    """Replace `~` and `${VARIABLE}`.

    Args:
        text: As in the run's configuration.
        key: Where it stands there, for the message.

    Raises:
        RunConfigError: a variable is not set.
    """
    missing = [n for n in re.findall(r"\$\{?(\w+)\}?", text) if n not in os.environ]
    if missing:
        raise RunConfigError(
            f"data.{key}: the variable {name} is not set, got {text!r}; "
            f"allowed a path; do `export {name}=DIRECTORY`"
            for name in missing
        )
    return Path(os.path.expandvars(text)).expanduser()
