"""The name of an evaluation protocol: two figures may stand side by side only under one name."""

from __future__ import annotations

from typing import Literal, assert_never

from features.spec import FeatureSet
from features.split_spec import ColumnSplit, LeaveOneOutSplit, RandomSplit, TemporalSplit


def protocol_name(feature_set: FeatureSet, *, task: Literal["ranking", "sequence"]) -> str:
    """Split, order, labels or candidates, and what is filtered, in one line."""
    parts = [_split_name(feature_set)]
    time = feature_set.entity.time
    if time is not None:
        parts.append(f"stable order by {time.column}, ties in file order")
    if task == "sequence":
        parts.append("ranks the full catalogue, seen items removed, ties count against the target")
    for label in feature_set.label if task == "ranking" else ():
        where = f" where {label.where}" if label.where else ""
        parts.append(f"{label.name} = {label.expr or label.name}{where}")
    return "; ".join(parts)


def _split_name(feature_set: FeatureSet) -> str:
    split = feature_set.split
    match split:
        case RandomSplit():
            shares = "/".join(f"{share:g}" for share in split.fractions)
            return f"random split {shares}, seed {split.seed}"
        case TemporalSplit() if split.fractions is not None:
            return "temporal split " + "/".join(f"{share:g}" for share in split.fractions)
        case TemporalSplit():
            return f"temporal split, validation from {split.val_from}, test from {split.test_from}"
        case LeaveOneOutSplit():
            return f"leave one out, users of {split.min_events} events and more"
        case ColumnSplit():
            return f"split by column {split.column}"
        case _:
            assert_never(split)
