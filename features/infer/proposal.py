"""What a first feature file says, from a look at the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from features.errors import DataError
from features.infer.entity import (
    ITEMS,
    USERS,
    GuessedColumn,
    GuessedTime,
    as_instant_column,
    guess_role,
    guess_time,
    is_position,
    may_be_position,
)
from features.infer.feature import HASHED_TABLE, FeatureLine, LeftOut, guess_feature, guess_id
from features.infer.files import Attributes, Table, common_folder, read_files
from features.infer.label import GuessedLabel, guess_label
from features.infer.mistakes import check_asked, check_columns, check_found
from features.infer.names import feature_name, sql_name, yaml_quoted, yaml_text
from features.infer.split import Split, guess_split
from features.spec import Time
from features.sql import parse_sql
from features.times import as_instant

Task = Literal["ranking", "sequence"]
HASHED_ROWS = 1 << 21
_LONGEST_POOLED, _LONGEST_READ = 50, 200
_FEWEST_EVENTS = 5  # of the median user, below which a history says little


@dataclass(frozen=True, eq=False)
class Proposal:
    """What `features.infer.text` writes down.

    Attributes:
        task: What the file is for.
        data_dir: Where its paths start.
        events: The log.
        attributes: Tables that join it.
        user: Who.
        item: What.
        time: When.
        label: What is predicted; None for sequence models.
        where: SQL for the events that count; None for all.
        split: YAML of the split and a comment.
        file_column: Name of the column of file names, where the split needs one.
        tables: YAML of named tables.
        dim: Width of rows.
        features: In the order of the file.
        left_out: Columns that became nothing.
    """

    task: Task
    data_dir: Path
    events: Table
    attributes: tuple[Attributes, ...]
    user: GuessedColumn | None
    item: GuessedColumn | None
    time: GuessedTime | None
    label: GuessedLabel | None
    where: str | None
    split: tuple[str, str]
    file_column: str | None
    tables: Mapping[str, str]
    dim: int
    features: tuple[FeatureLine, ...]
    left_out: tuple[LeftOut, ...]


def infer(files: Sequence[Path], *, task: Task, asked: Mapping[str, str]) -> Proposal:
    """Look at the files and propose a feature set.

    Args:
        files: Of events first; further files of events, and tables of attributes.
        task: `ranking` for a label per event, `sequence` for the next item.
        asked: Columns that a person named for user, item, time or label.

    Raises:
        DataError: files cannot be read or joined, or what the task needs is not to be found.
    """
    events, attributes = read_files(files)
    check_asked(asked, events)
    user, item, time = _entity(events, attributes, task=task, asked=asked)
    roles = [role.column for role in (user, item, time) if role is not None]
    label = None
    if task == "ranking":
        label = guess_label(events.columns, taken=roles, asked=asked.get("label"))
    if task == "ranking":
        check_columns(attributes, roles if label is None else [*roles, label.column])
    check_found(events, task=task, user=user, item=item, time=time, label=label, asked=asked)
    look = _Look(events, attributes, user, item, time, label)
    features, left_out = look.sequence() if task == "sequence" else look.ranking()
    split, file_column, of_split = look.split()
    if of_split is not None:
        features = tuple(f for f in features if not _is_of(f, of_split))
    if not features:
        reasons = "; ".join(f"{column.column}: {column.reason}" for column in left_out)
        raise DataError(
            f"{events.files[0].name}: no column is of use as a feature, got {reasons or 'none'}; "
            f"give more events, or columns that differ"
        )
    is_hashed = any((("table", HASHED_TABLE)) in line.settings for line in features)
    return Proposal(
        task=task,
        data_dir=common_folder(files),
        events=events,
        attributes=attributes if task == "ranking" else (),
        user=user,
        item=item,
        time=time,
        label=label,
        where=_where(events, roles),
        split=split,
        file_column=file_column,
        tables={HASHED_TABLE: f"{{scheme: unified, rows: {HASHED_ROWS}}}"} if is_hashed else {},
        dim=64 if task == "sequence" else 16,
        features=features,
        left_out=left_out,
    )


@dataclass(frozen=True, eq=False)
class _Look:
    """All that is known when features are chosen."""

    events: Table
    attributes: tuple[Attributes, ...]
    user: GuessedColumn | None
    item: GuessedColumn | None
    time: GuessedTime | None
    label: GuessedLabel | None

    def ranking(self) -> tuple[tuple[FeatureLine, ...], tuple[LeftOut, ...]]:
        """Everything known before the event, and the items that the user liked before."""
        assert self.label is not None
        taken = {self.label.name}
        found: list[FeatureLine | LeftOut] = [self._id(role, taken) for role in self._ids()]
        found += [self._column(self.events, name, taken) for name in self._others()]
        for joined in self.attributes:
            for name in joined.table.columns:
                if name != joined.key:
                    found.append(self._column(joined.table, name, taken, joined=joined))
        lines = [line for line in found if isinstance(line, FeatureLine)]
        lines += self._of_clock(taken)
        of = next((n.name for n in lines if self.item and _is_of(n, self.item.column)), "")
        history = self._history(taken, self.label.condition, of=of)
        if history is not None:
            lines.append(history)
        return tuple(lines), (*(o for o in found if isinstance(o, LeftOut)), *self._not_read())

    def sequence(self) -> tuple[tuple[FeatureLine, ...], tuple[LeftOut, ...]]:
        """The item and the items before it."""
        assert self.item is not None
        column = self.events.columns[self.item.column]
        lines = [FeatureLine(column.name, (("kind", "categorical"),))]
        history = self._history({column.name}, None, of=column.name)
        assert history is not None, "user, item and time were found"
        return (*lines, history), ()

    def split(self) -> Split:
        """How events are divided; for a next item, the last of each user."""
        if self.label is None:
            comment = "a user's last event tests, the one before validates"
            return ("leave_one_out", comment), None, None
        return guess_split(
            self.events,
            time=self.time,
            has_user=self.user is not None,
            labels=self._labels(),
            instants=self.instants(),
        )

    def _ids(self) -> list[GuessedColumn]:
        return [role for role in (self.user, self.item) if role is not None]

    def _others(self) -> list[str]:
        assert self.label is not None
        used = {role.column for role in self._ids()} | {self.label.column}
        if self.time is not None:
            used.add(self.time.column)
        return [name for name in self.events.columns if name not in used]

    def _not_read(self) -> list[LeftOut]:
        if self.time is None or not self.time.is_position:
            return []
        return [LeftOut(self.time.column, "counts a user's events")]

    def _id(self, role: GuessedColumn, taken: set[str]) -> FeatureLine:
        column = self.events.columns[role.column]
        line = guess_id(column)
        name = _take(column.name, taken)
        if name == column.name:
            return line
        settings = (line.settings[0], ("column", yaml_text(column.name)), *line.settings[1:])
        return FeatureLine(name, settings, line.comment)

    def _column(
        self, table: Table, name: str, taken: set[str], *, joined: Attributes | None = None
    ) -> FeatureLine | LeftOut:
        column = table.columns[name]
        if self._is_elsewhere(table, name):
            shown = name if joined is None else f"{table.name}.{name}"
            return LeftOut(shown, "another table has a column of this name; rename one")
        if joined is None and self._counts_events(name):
            return LeftOut(name, "counts a user's events")
        values = table.sample[name]
        labels: pl.Series | None = self._labels()
        if joined is not None:
            key = pl.col(joined.key).cast(self.events.columns[joined.key].dtype, strict=False)
            small = joined.table.frame.select(key, name)
            keys = self.events.sample.lazy().select(joined.key)
            values = keys.join(small, on=joined.key, how="left", maintain_order="left").collect()[
                name
            ]
        is_missing = column.num_missing > 0 or (joined is not None and joined.num_unmatched > 0)
        feature = _take(name, taken)
        line = guess_feature(
            column,
            name=feature,
            source=feature if feature == name else yaml_text(name),
            may_be_missing=is_missing,
            is_attribute=joined is not None,
            values=values,
            labels=labels,
        )
        if isinstance(line, LeftOut):
            taken.discard(feature)
        return line

    def _is_elsewhere(self, table: Table, name: str) -> bool:
        """Whether another table has the column, which nobody can read then, unless as its key."""
        others = [joined.table for joined in self.attributes if name != joined.key]
        return any(name in t.columns for t in (self.events, *others) if t is not table)

    def _counts_events(self, name: str) -> bool:
        column = self.events.columns[name]
        user = None if self.user is None else self.user.column
        return may_be_position(column) and is_position(self.events.frame, name, user)

    def _labels(self) -> pl.Series:
        """Of the sampled events: 0, 1 or null."""
        assert self.label is not None
        value = parse_sql(self.label.condition).cast(pl.Float64)
        if self.label.where is not None:
            value = pl.when(parse_sql(self.label.where).fill_null(False)).then(value)
        return self.events.sample.select(value.alias("label"))["label"]

    def instants(self) -> pl.Series | None:
        """Of the sampled events that have one."""
        if self.time is None or not self.time.is_instant:
            return None
        name = self.time.column
        dtype = self.events.columns[name].dtype
        time = as_instant(Time(column=name, unit=self.time.unit), dtype)
        return self.events.sample.select(time.alias("time"))["time"]

    def _of_clock(self, taken: set[str]) -> list[FeatureLine]:
        """Hour and weekday, as far as they differ."""
        instants = self.instants()
        if instants is None or self.time is None:
            return []
        instants = instants.drop_nulls()
        column = sql_name(self.time.column)
        lines = []
        if instants.dt.hour().n_unique() > 1 and "hour" not in taken:
            expr = yaml_quoted(f"extract(hour from {column})")
            lines.append(FeatureLine("hour", (("kind", "categorical"), ("expr", expr)), "UTC"))
        if instants.dt.date().n_unique() > 13 and "weekday" not in taken:
            expr = yaml_quoted(f"extract(dow from {column})")
            lines.append(FeatureLine("weekday", (("kind", "categorical"), ("expr", expr))))
        taken |= {line.name for line in lines}
        return lines

    def _history(self, taken: set[str], condition: str | None, *, of: str) -> FeatureLine | None:
        """The user's earlier items, as many as nearly all users have; with a condition, pooled."""
        pooled = condition is not None
        if self.user is None or self.item is None or self.time is None:
            return None
        lengths = self.events.frame.group_by(self.user.column).len("events")
        median, high = (
            lengths.select(
                pl.col("events").median().alias("median"),
                pl.col("events").quantile(0.9).alias("high"),
            )
            .collect(engine="streaming")
            .row(0)
        )
        if pooled and median < _FEWEST_EVENTS:
            return None
        longest = _LONGEST_POOLED if pooled else _LONGEST_READ
        length = min(longest, max(5, -(-int(high) // 5) * 5))
        settings = [("kind", "sequence"), ("of", yaml_text(of)), ("max_length", str(length))]
        if condition is not None:
            settings += [("where", yaml_quoted(condition)), ("pooling", "mean")]
        comment = f"guess: nine of ten users have at most {int(high):,} events"
        return FeatureLine(_take("history", taken), tuple(settings), comment)


def _take(column: str, taken: set[str]) -> str:
    name = feature_name(column, taken=taken)
    taken.add(name)
    return name


def _is_of(line: FeatureLine, column: str) -> bool:
    return dict(line.settings).get("column", yaml_text(line.name)) == yaml_text(column)


def _entity(
    events: Table, attributes: tuple[Attributes, ...], *, task: Task, asked: Mapping[str, str]
) -> tuple[GuessedColumn | None, GuessedColumn | None, GuessedTime | None]:
    keys = {joined.table.name: joined.key for joined in attributes}
    said = {role: GuessedColumn(asked[role]) for role in ("user", "item") if role in asked}
    others = list(asked.values())
    columns = events.columns
    user = said.get("user") or guess_role(columns, words=USERS, keys=keys, taken=others)
    of_user = [] if user is None else [user.column]
    item = said.get("item") or guess_role(
        columns, words=ITEMS, keys=keys, taken=[*others, *of_user]
    )
    of_item = [] if item is None else [item.column]
    free = {n: c for n, c in columns.items() if n not in [*others, *of_user, *of_item]}
    name = None if user is None else user.column
    if "time" in asked:
        return user, item, _asked_time(events, asked["time"], user=name)
    time = guess_time(free, events.frame, user=name, prefers_position=task == "sequence")
    return user, item, time


def _asked_time(events: Table, column: str, *, user: str | None) -> GuessedTime:
    found = as_instant_column(events.columns[column])
    if found is not None:
        return found
    if not events.columns[column].dtype.is_numeric():
        raise DataError(
            f"--time: column {column!r} cannot order events, got type "
            f"{events.columns[column].dtype}; allowed numbers, dates and datetimes; convert it"
        )
    counts = events.columns[column].is_whole_number and is_position(events.frame, column, user)
    return GuessedTime(column, None, is_instant=False, is_position=counts)


def _where(events: Table, roles: list[str]) -> str | None:
    """Leaves out events without user, item or time."""
    found = []
    for name in roles:
        column = events.columns[name]
        if column.num_missing and column.dtype.is_float():
            found.append(f"{sql_name(name)} <= {column.maximum!r}")
        elif column.num_missing:
            found.append(f"{sql_name(name)} is not null")
    return " and ".join(found) or None
