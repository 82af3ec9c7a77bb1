"""Raw data to be scored -> an encoded store, by a schema that was fitted elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features import columns
from features.checks import broken, counted, reading, value_checks
from features.encode import encode
from features.errors import DataError
from features.schema import FeatureSchema
from features.sources import scan_events
from features.spec import Sequence
from features.values import raw_types
from recsys.data.building import write_rows
from recsys.data.collate import Collate, RankingCollate
from recsys.data.item_sequence import ItemSequence
from recsys.data.loader import BatchLoader
from recsys.data.rows import Rows
from recsys.data.sequences import SequenceEvaluationCollate, history_columns
from recsys.data.sources import MemorySource, ParquetSource
from recsys.data.store import EncodedStore, write_manifest

SPLIT = "test"


def encode_for_scoring(
    schema: FeatureSchema, data_dir: Path, path: Path, *, max_memory_bytes: int = 4 << 30
) -> EncodedStore:
    """Encode every event; labels, weights and splits are neither needed nor read.

    Args:
        schema: What the model was trained with.
        data_dir: Raw files, named and laid out as those of training.
        path: Directory to make.
        max_memory_bytes: Memory for rows at any one time.

    Raises:
        DataError: a file, column or value is not what the schema expects.
    """
    feature_set = schema.feature_set.model_copy(update={"label": (), "weight": None})
    schema = replace(schema, feature_set=feature_set)
    raw = scan_events(feature_set, data_dir, require_labels=False)
    _check_values(schema, raw, where=str(data_dir))
    path.mkdir(parents=True)
    all_of_one_split = raw.with_columns(pl.lit(SPLIT).alias(columns.SPLIT))
    encoded = encode(schema, all_of_one_split, with_labels=True)
    rows = write_rows(schema, encoded, path, max_memory_bytes=max_memory_bytes)
    return write_manifest(path, schema, rows=rows, data_fingerprint="")


def _check_values(schema: FeatureSchema, raw: pl.LazyFrame, *, where: str) -> None:
    """Every value in one pass, before anything is written."""
    feature_set = schema.feature_set
    checks = value_checks(feature_set, raw_types(feature_set, raw), with_labels=False)
    with reading(where):
        totals = raw.select(pl.len().alias("num_rows"), *counted(checks)).collect(
            engine="streaming"
        )
        mistakes = broken(checks, totals.row(0, named=True), frame=raw, where=where)
    if mistakes:
        raise DataError(mistakes)


def event_batches(store: EncodedStore, *, batch_size: int) -> BatchLoader:
    """Every event with its features and history, in the order of `event_rows`."""
    sequences = store.schema.feature_set.of_kind(Sequence)
    histories = {s.name: store.histories_of(s) for s in sequences}
    collate = RankingCollate(store.schema, histories=histories)
    source = ParquetSource(store.example_files(SPLIT), columns=collate.columns)
    return _in_order(source, collate, batch_size=batch_size)


def event_rows(store: EncodedStore) -> pl.Series:
    """Place of every event in the event log, in the order of the batches."""
    return pl.concat(
        [pl.read_parquet(f, columns=[columns.ROW], glob=False) for f in store.example_files(SPLIT)]
    )[columns.ROW]


def user_batches(
    store: EncodedStore, *, batch_size: int, users: NDArray[np.int64] | None = None
) -> BatchLoader:
    """Users with their whole histories.

    Users are asked at the time of their last event, or at 0 where the history is empty.

    Args:
        store: Has the histories.
        batch_size: Users of a batch.
        users: Their history rows. None: all, in the order of the store.
    """
    items = ItemSequence.of(store.schema.feature_set)
    assert store.histories is not None, "sequences need a user column"
    if users is None:
        users = np.arange(len(store.histories))
    ends = store.histories_of(items.feature).lengths_of(users)
    rows = {
        columns.POSITION: store.histories.lengths_of(users),
        **history_columns(store, items.feature, users=users, ends=ends),
        items.item: np.zeros(len(users), np.int64),  # nothing is known to come next
        columns.WEIGHT: np.ones(len(users), np.float32),
    }
    source = MemorySource(Rows(rows, len(users)))
    return _in_order(source, SequenceEvaluationCollate(store, items), batch_size=batch_size)


def last_events(store: EncodedStore) -> pl.DataFrame:
    """The last event of each user who has two or more, and all that `last_event_batches` reads.

    Args:
        store: Has the events, all in one split; rows of the result are in the order of its users.
    """
    wanted = SequenceEvaluationCollate(store, ItemSequence.of(store.schema.feature_set)).columns
    log = pl.scan_parquet(store.example_files(SPLIT), glob=False).select(wanted)
    place = pl.col(columns.POSITION)
    last = log.filter(place == place.max().over(columns.USER), place > 0)
    return last.sort(columns.USER).collect()


def last_event_batches(
    store: EncodedStore, events: pl.DataFrame, *, batch_size: int
) -> BatchLoader:
    """Events as what is to be found, each with the history before it, in this order.

    Args:
        store: Has the histories.
        events: As of `last_events`.
        batch_size: Users of a batch.
    """
    collate = SequenceEvaluationCollate(store, ItemSequence.of(store.schema.feature_set))
    source = MemorySource(Rows.from_arrow(events.select(collate.columns).to_arrow()))
    return _in_order(source, collate, batch_size=batch_size)


def _in_order(
    source: ParquetSource | MemorySource, collate: Collate, *, batch_size: int
) -> BatchLoader:
    return BatchLoader(source, collate=collate, batch_size=batch_size, training=False)
