"""What a first feature file cannot be made without: each mistake says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.errors import DataError, did_you_mean
from features.infer.entity import GuessedColumn, GuessedTime
from features.infer.files import Attributes, Table
from features.infer.label import GuessedLabel
from features.infer.names import feature_name


def check_asked(asked: Mapping[str, str], events: Table) -> None:
    """Complain of columns that a person named and that do not exist."""
    mistakes = [
        f"--{role}: no column {column!r} in {events.files[0].name}"
        f"{did_you_mean(column, events.columns)}; available {', '.join(events.columns)}"
        for role, column in asked.items()
        if column not in events.columns
    ]
    if mistakes:
        raise DataError(mistakes)


def check_columns(attributes: tuple[Attributes, ...], read: Sequence[str]) -> None:
    """Complain of attributes called like a column of the events that has to be read."""
    mistakes = [
        f"{joined.table.files[0].name}: column {column!r} is also in the events, which need it; "
        f"rename it here"
        for joined in attributes
        for column in joined.table.columns
        if column in read and column != joined.key
    ]
    if mistakes:
        raise DataError(mistakes)


def check_found(
    events: Table,
    *,
    task: str,
    user: GuessedColumn | None,
    item: GuessedColumn | None,
    time: GuessedTime | None,
    label: GuessedLabel | None,
    asked: Mapping[str, str],
) -> None:
    """Complain of all that a task needs and that was not found."""
    where, columns = events.files[0].name, ", ".join(events.columns)
    mistakes = []
    if task == "ranking" and label is None:
        if "label" in asked:
            column = events.columns[asked["label"]]
            mistakes.append(
                f"--label: column {column.name!r} makes no label, got type {column.dtype} with "
                f"{column.num_distinct:,} values; allowed 0 and 1, ratings, counts and kinds of "
                f"events; make such a column in the data"
            )
        else:
            mistakes.append(
                f"{where}: no column looks like a label, got {columns}; name it with "
                f"--label COLUMN, or make a next-item file with --task sequence"
            )
    if task == "sequence":
        if "label" in asked:
            mistakes.append(
                f"--label: a next-item file has none, since every event counts, got "
                f"{asked['label']!r}; drop it, and leave events out by `where` of sources.events "
                f"in the file that is made"
            )
        roles = (("user", user), ("item", item), ("time", time))
        mistakes += [
            f"{where}: no column looks like the {role}, which --task sequence needs, got "
            f"{columns}; name it with --{role} COLUMN"
            for role, found in roles
            if found is None
        ]
        if item is not None and feature_name(item.column, taken=set()) != item.column:
            mistakes.append(
                f"{where}: the item column cannot be the name of a feature, got {item.column!r}; "
                f"allowed are a letter, then letters, digits and _; rename it in the data"
            )
    if mistakes:
        raise DataError(mistakes)
