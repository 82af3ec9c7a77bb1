"""Guessing how events are divided into training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from features.infer.entity import GuessedTime
from features.infer.files import PARTS, Table, parts_by_name
from features.infer.names import feature_name, yaml_text

_FILE_COLUMN = "file"
Split = tuple[tuple[str, str], str | None, str | None]


def guess_split(
    events: Table,
    *,
    time: GuessedTime | None,
    has_user: bool,
    labels: pl.Series,
    instants: pl.Series | None,
) -> Split:
    """YAML and comment, the name of a column of files, and the column that says the split.

    Args:
        events: The log.
        time: What orders it.
        has_user: Whether it says who.
        labels: Of the sampled events.
        instants: Of the sampled events, where the time has such.
    """
    parts = parts_by_name(events.files)
    if parts is not None:
        column = feature_name(_FILE_COLUMN, taken=set(events.columns))
        return (_by_values(column, parts), "as the files are called"), column, None
    for name, column in events.columns.items():
        said = _said_parts(column.values) if column.is_text else None
        if said is not None:
            return (_by_values(yaml_text(name), said), ""), None, name
    if time is not None and time.is_position and has_user:
        return ("leave_one_out", "the time only orders a user's own events"), None, None
    if time is None:
        return ("{kind: random, fractions: [0.8, 0.1, 0.1]}", "there is no time"), None, None
    if not _fills_parts(events, time, labels=labels, instants=instants):
        split = "{kind: random, fractions: [0.8, 0.1, 0.1]}"
        return (split, "guess: too few different times to split by them"), None, None
    return ("{kind: temporal, fractions: [0.8, 0.1, 0.1]}", "the oldest events train"), None, None


def _by_values(column: str, parts: Mapping[str, tuple[str, ...]]) -> str:
    parts = dict(parts)
    if not parts["val"]:  # training needs one; what is left tests nothing
        parts["val"], parts["test"] = parts["test"], ()
    lists = (f"{part}: [{', '.join(map(yaml_text, names))}]" for part, names in parts.items())
    return f"{{kind: column, column: {column}, {', '.join(lists)}}}"


def _said_parts(values: pl.Series) -> dict[str, tuple[str, ...]] | None:
    """Values of a column that says train, validation, test and nothing else."""
    texts = values.cast(pl.String).unique().sort().head(8).to_list()
    parts = {p: tuple(t for t in texts if t.lower() in names) for p, names in PARTS.items()}
    if sum(map(len, parts.values())) < len(texts) or not parts["train"]:
        return None
    return parts if parts["val"] or parts["test"] else None


def _fills_parts(
    events: Table, time: GuessedTime, *, labels: pl.Series, instants: pl.Series | None
) -> bool:
    """Whether each part of a split by time has events with a label."""
    times = events.sample[time.column] if instants is None else instants
    rows = pl.DataFrame({"time": times, "label": labels}).drop_nulls()
    counts = rows.group_by("time").len().sort("time")
    earlier = (counts["len"].cum_sum() - counts["len"]) / max(len(rows), 1)
    return bool(((earlier >= 0.8) & (earlier < 0.9)).any() and (earlier >= 0.9).any())
