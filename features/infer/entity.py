"""Guessing from names and shapes which columns say who, what and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from features.infer.names import ID_WORDS, words_of
from features.infer.profile import ColumnProfile

Unit = Literal["s", "ms", "us", "ns"]

USERS = (
    "user", "u", "uid", "customer", "member", "visitor", "account", "client", "buyer", "consumer",
    "reader", "viewer", "listener", "subscriber", "person", "reviewer", "profile", "session",
    "cookie", "device",
)  # fmt: skip
ITEMS = (
    "item", "i", "iid", "product", "movie", "article", "video", "song", "track", "book", "ad",
    "news", "app", "asin", "sku", "goods", "content", "post", "listing", "offer", "creative",
    "document", "doc", "poi", "business", "restaurant", "recipe", "game", "show", "episode",
    "artist", "photo", "target",
)  # fmt: skip
TIMES = (
    "timestamp", "time", "ts", "datetime", "date", "at", "when", "epoch", "created", "unix", "day",
    "hour", "dt", "week", "month",
)  # fmt: skip
OTHER_TIMES = frozenset(
    {"birth", "birthday", "born", "signup", "registered", "joined", "release", "released",
     "expires", "expiry", "updated", "end", "until"}
)  # fmt: skip
POSITIONS = frozenset(
    {"pos", "position", "order", "step", "rank", "seq", "sequence", "index", "idx", "turn", "n"}
)
# Words that alone name a person or thing too rarely.
_NEED_ID = frozenset({"device", "cookie", "profile", "target", "show", "account", "person", "app"})
_EARLIEST_S, _LATEST_S = 631_152_000, 4_102_444_800  # 1990 and 2100
_TICKS: tuple[tuple[Unit, int], ...] = (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9))
_LEAST_VALUES = 2


@dataclass(frozen=True)
class GuessedColumn:
    """A column in a role.

    Attributes:
        column: Its name.
        doubt: Why it may be another; empty where a person said it or its name says it.
    """

    column: str
    doubt: str = ""


@dataclass(frozen=True)
class GuessedTime:
    """The column that orders events.

    Attributes:
        column: Its name.
        unit: Of a number since 1970.
        is_instant: Whether it is a date or datetime, at the latest with the unit; else it only
            orders.
        is_position: Whether it counts the events of each user, so that users cannot be compared.
        doubt: Why it may be another.
    """

    column: str
    unit: Unit | None
    is_instant: bool
    is_position: bool
    doubt: str = ""


def guess_role(
    columns: Mapping[str, ColumnProfile],
    *,
    words: tuple[str, ...],
    keys: Mapping[str, str],
    taken: Iterable[str] = (),
) -> GuessedColumn | None:
    """The user or item column.

    Args:
        columns: Of the events.
        words: That name the role, the best first.
        keys: Key column of each attribute table, by the table's name.
        taken: Columns that have another role.
    """
    possible = {
        name: column
        for name, column in columns.items()
        if column.may_be_id and column.num_distinct >= _LEAST_VALUES and name not in set(taken)
    }
    named = {name: rank for name in possible if (rank := _rank(name, words)) is not None}
    if named:
        best = min(named, key=lambda name: (named[name], -possible[name].num_distinct))
        return GuessedColumn(best)
    for table, key in keys.items():
        is_said = any(word.removesuffix("s") in words for word in words_of(table))
        if key in possible and is_said:
            return GuessedColumn(key, f"key of {table}")
    ids = [name for name in possible if set(words_of(name)) & ID_WORDS]
    repeated = [n for n in ids if 2 * possible[n].num_distinct <= possible[n].num_present]
    if not repeated:
        return None
    best = max(repeated, key=lambda name: possible[name].num_distinct)
    return GuessedColumn(best, "the id column with the most values")


def guess_time(
    columns: Mapping[str, ColumnProfile],
    frame: pl.LazyFrame,
    *,
    user: str | None,
    prefers_position: bool,
) -> GuessedTime | None:
    """The column that orders events.

    Args:
        columns: Of the events.
        frame: The events.
        user: Whose events positions count.
        prefers_position: Whether a count of a user's events is better than an instant: it has no
            ties.
    """
    instants = [t for c in columns.values() if (t := as_instant_column(c)) is not None]
    position = None
    if prefers_position or not instants:
        position = next(
            (n for n in columns if may_be_position(columns[n]) and is_position(frame, n, user)),
            None,
        )
    if position is not None:
        return GuessedTime(position, None, is_instant=False, is_position=True)
    if instants:
        return min(instants, key=lambda time: _time_rank(columns[time.column]))
    numbers = [n for n, c in columns.items() if c.may_be_id and _orders(c)]
    if not numbers:
        return None
    best = min(numbers, key=lambda name: _time_rank(columns[name]))
    doubt = "orders events by this number"
    return GuessedTime(best, None, is_instant=False, is_position=False, doubt=doubt)


def as_instant_column(column: ColumnProfile) -> GuessedTime | None:
    """The column as a time with date and clock, where it can be one."""
    words = set(words_of(column.name))
    if column.num_distinct < _LEAST_VALUES or words & OTHER_TIMES:
        return None
    if column.is_date:
        return GuessedTime(column.name, None, is_instant=True, is_position=False)
    unit = _unit(column)
    if unit is None:
        return None
    if words & set(TIMES):
        return GuessedTime(column.name, unit, is_instant=True, is_position=False)
    if not words & ID_WORDS and column.values.is_sorted():
        doubt = "rising numbers of the size of a clock"
        return GuessedTime(column.name, unit, is_instant=True, is_position=False, doubt=doubt)
    return None


def may_be_position(column: ColumnProfile) -> bool:
    """Whether a column is called a position."""
    return column.is_whole_number and bool(set(words_of(column.name)) & POSITIONS)


def is_position(frame: pl.LazyFrame, column: str, user: str | None) -> bool:
    """Whether a column counts each user's events, from any number on; a few users may miss some."""
    if user is None or column == user:
        return False
    value = pl.col("value")
    counted = (value.n_unique() == pl.len()) & (value.max() - value.min() + 1 == pl.len())
    found = frame.select(user=user, value=column).group_by("user").agg(good=counted, rows=pl.len())
    share, longest = (
        found.select(pl.col("good").mean(), pl.col("rows").max()).collect(engine="streaming").row(0)
    )
    return longest > 1 and share >= 0.99


def _rank(name: str, words: tuple[str, ...]) -> int | None:
    """Place of the role's word in a name that says nothing else."""
    found = words_of(name)
    roles = [word for word in found if word in words]
    if len(roles) != 1 or not set(found) <= ID_WORDS | {roles[0]}:
        return None
    has_id = bool(set(found) & ID_WORDS)
    if roles[0] in _NEED_ID and not has_id:
        return None
    return words.index(roles[0])


def _unit(column: ColumnProfile) -> Unit | None:
    """Unit of a number of ticks since 1970, by its size."""
    if not (column.is_whole_number or column.dtype.is_float()):
        return None
    if column.minimum is None or column.maximum is None or column.num_infinite:
        return None
    for unit, ticks in _TICKS:
        if _EARLIEST_S * ticks <= column.minimum and column.maximum <= _LATEST_S * ticks:
            return unit
    return None


def _time_rank(column: ColumnProfile) -> tuple[int, int, int]:
    """Columns of a finer clock first, then by name."""
    ranks = [TIMES.index(word) for word in words_of(column.name) if word in TIMES]
    is_coarse = column.dtype == pl.Date
    return (int(is_coarse), min(ranks, default=len(TIMES)), -column.num_distinct)


def _orders(column: ColumnProfile) -> bool:
    """Whether a number that is no instant may order events: 20240131, or 24013117."""
    words = words_of(column.name)
    if not column.is_whole_number or not words or words[-1] not in TIMES:
        return False
    of_a_cycle = {"hour": 24, "day": 31, "week": 53, "month": 12}.get(words[-1], 0)
    return (column.maximum or 0) > of_a_cycle and column.num_distinct > _LEAST_VALUES
