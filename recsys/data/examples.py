"""Writes the examples of a store: Parquet files by split, in row groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from features import columns
from features.columns import time_column
from features.schema import FeatureSchema
from features.spec import Sequence
from features.values import timed_sequences
from recsys.data.layout import EXAMPLES, dense_features, position_column

_MAX_GROUP_ROWS = 65_536
_MIN_GROUP_ROWS = 4_096
# Row groups a small split is cut into: reading in lanes and shuffling need more than a few.
_GROUPS = 64


class ExampleWriter:
    """Writes examples of one part of the events after the other.

    Args:
        schema: What the events are encoded with.
        path: The store.
    """

    def __init__(self, schema: FeatureSchema, path: Path) -> None:
        self._feature_set = schema.feature_set
        self._path = path / EXAMPLES
        for split in columns.SPLITS:
            (self._path / split).mkdir(parents=True)

    def count(self, events: pl.LazyFrame) -> dict[str, int]:
        """Number of examples of each split."""
        counted = (
            events.filter(self._is_example())
            .group_by(columns.SPLIT)
            .agg(pl.len())
            .collect(engine="streaming")
        )
        by_split = dict(counted.iter_rows())
        return {split: by_split.get(split, 0) for split in columns.SPLITS}

    def write(self, part: pl.DataFrame, *, number: int, rows: dict[str, int]) -> None:
        """Write the examples of some events: training shuffled, the others in file order.

        Args:
            part: Encoded events with their positions.
            number: Of the part; names its files and seeds the shuffling.
            rows: Examples of each split in all parts.
        """
        examples = part.filter(self._is_example()).select(self._columns())
        for split in columns.SPLITS:
            of_split = examples.filter(pl.col(columns.SPLIT) == split).drop(columns.SPLIT)
            of_split = of_split.sort(columns.ROW)
            if split == "train":
                of_split = of_split[np.random.default_rng(number).permutation(len(of_split))]
            if len(of_split):
                of_split.rechunk().write_parquet(
                    self._path / split / f"part-{number:05d}.parquet",
                    compression="lz4",
                    statistics=False,
                    row_group_size=int(
                        np.clip(rows[split] // _GROUPS, _MIN_GROUP_ROWS, _MAX_GROUP_ROWS)
                    ),
                )

    def _is_example(self) -> pl.Expr:
        """Events of a split, with a label if the feature set has labels."""
        in_split = pl.col(columns.SPLIT).is_not_null()
        labels = [columns.label_column(name) for name in self._feature_set.labels]
        if not labels:
            return in_split
        return in_split & pl.any_horizontal(pl.col(name).is_not_null() for name in labels)

    def _columns(self) -> list[str]:
        feature_set = self._feature_set
        names = [columns.ROW, columns.SPLIT, columns.WEIGHT]
        names += [columns.label_column(name) for name in feature_set.labels]
        names += [f.name for f in (*feature_set.embedded, *dense_features(feature_set))]
        if feature_set.entity.user is not None:
            names += [columns.USER, columns.POSITION]
            names += [position_column(s) for s in feature_set.of_kind(Sequence) if s.where]
            names += [time_column(s.name) for s in timed_sequences(feature_set)]
        return names
