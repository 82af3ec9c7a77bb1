"""Names and places in a store, and how examples say which history is theirs."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from features import columns
from features.schema import FeatureSchema
from features.spec import Categorical, Dense, FeatureSet, Sequence, Vector

SCHEMA = "schema"
EXAMPLES = "examples"
HISTORIES = "histories"
USERS = "users.parquet"
_FILTERED = "filtered"


def filtered_path(path: Path, sequence: str) -> Path:
    """Where a store keeps the histories of a sequence with a `where`."""
    return path / HISTORIES / _FILTERED / sequence


def position_column(sequence: Sequence) -> str:
    """The example column that counts the events of a sequence before the example."""
    return f"{columns.POSITION}.{sequence.name}" if sequence.where else columns.POSITION


def dense_features(feature_set: FeatureSet) -> tuple[Dense | Vector, ...]:
    """Features that enter as numbers, in the order of `Batch.dense_BN`."""
    return feature_set.of_kind(Dense, Vector)


def item_feature(feature_set: FeatureSet) -> Categorical | None:
    """The feature whose ids are the item catalogue, where there is one."""
    named = [f for f in feature_set.of_kind(Categorical) if f.name == feature_set.entity.item]
    return named[0] if named else None


def id_dtype(schema: FeatureSchema, feature: str) -> type[pl.DataType]:
    """The narrowest type that holds all ids of a feature."""
    num_ids = schema.num_ids(feature)
    if num_ids is None:
        return pl.Int64
    bits = (num_ids - 1).bit_length()
    if bits <= 8:
        return pl.UInt8
    if bits <= 16:
        return pl.UInt16
    return pl.UInt32 if bits <= 32 else pl.Int64
