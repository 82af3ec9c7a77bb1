"""All warnings of a feature file and its data."""

from __future__ import annotations

import polars as pl

from features.checking.find_ids import one_value, rare_ids, unseen_entities, unseen_ids
from features.checking.find_leaks import identical_rows, leaks
from features.checking.finding import Finding
from features.columns import SPLIT
from features.encode import encode
from features.schema import FeatureSchema


def rows_by_part(frame: pl.LazyFrame) -> dict[str, int]:
    """Events of train, val and test.

    Args:
        frame: From `features.split.assign_split`.
    """
    counts = frame.group_by(SPLIT).len("rows").collect(engine="streaming")
    found = {row[SPLIT]: row["rows"] for row in counts.iter_rows(named=True)}
    return {part: found.get(part, 0) for part in ("train", "val", "test")}


def find_all(
    schema: FeatureSchema, frame: pl.LazyFrame, *, num_training: int
) -> tuple[Finding, ...]:
    """What is allowed, yet seldom meant, in the order of its weight.

    Args:
        schema: Fitted to the training rows of the frame, which checks all rows.
        frame: From `features.split.assign_split`.
        num_training: Training rows.
    """
    encoded = encode(schema, frame, with_labels=True)
    return (
        *leaks(schema, encoded, num_training=num_training),
        *identical_rows(schema, encoded),
        *one_value(schema, encoded),
        *unseen_entities(schema, encoded),
        *unseen_ids(schema, encoded),
        *rare_ids(schema),
    )
