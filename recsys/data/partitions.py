"""Cuts the encoded events into parts that fit in memory, and places every event in its history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features import columns
from features.schema import FeatureSchema
from features.spec import FeatureSet, Sequence
from recsys.data.histories import HistoryWriter
from recsys.data.layout import (
    HISTORIES,
    USERS,
    filtered_path,
    id_dtype,
    item_feature,
    position_column,
)
from recsys.data.rows import Rows

_USER = columns.entity_column("user")
_TIME = columns.entity_column("time")
_LENGTH = "_length"
# Sorting, permuting and writing hold about this many copies of a part.
_COPIES = 4


@dataclass(frozen=True)
class EncodedEvents:
    """All events of the log, encoded.

    Attributes:
        schema: What they are encoded with.
        frame: Scan of the file that holds them.
    """

    schema: FeatureSchema
    frame: pl.LazyFrame

    @property
    def feature_set(self) -> FeatureSet:
        """What the person wrote."""
        return self.schema.feature_set

    @property
    def filtered(self) -> tuple[Sequence, ...]:
        """Sequences with a `where`, which have histories of their own."""
        return tuple(s for s in self.feature_set.of_kind(Sequence) if s.where)

    def num_parts(self, *, max_memory_bytes: int) -> int:
        """Parts of equal size so that each can be sorted within a number of bytes."""
        sample = self.frame.head(10_000).collect(engine="streaming")
        num_events = self.frame.select(pl.len()).collect(engine="streaming").item()
        num_bytes = num_events * sample.estimated_size() / max(len(sample), 1)
        return max(1, int(np.ceil(num_bytes * _COPIES / max_memory_bytes)))


def parts_by_row(events: EncodedEvents, *, num_parts: int) -> Iterator[pl.DataFrame]:
    """Some consecutive events at a time, for logs without users."""
    num_events = events.frame.select(pl.len()).collect(engine="streaming").item()
    cuts = np.linspace(0, num_events, num_parts + 1).astype(int)
    for start, stop in pairwise(cuts):
        yield events.frame.slice(start, stop - start).collect(engine="streaming")


def parts_by_user(events: EncodedEvents, path: Path, *, num_parts: int) -> Iterator[pl.DataFrame]:
    """All events of some users at a time, by user and time, with USER and POSITION.

    Writes the histories and the list of users to the store on the way; they do not depend on
    the number of parts.

    Args:
        events: What to cut.
        path: The store.
        num_parts: At most so many parts; a user is never cut.
    """
    users = _users(events)
    users.select(pl.col(_USER).alias("user")).write_parquet(path / USERS)
    writers = _history_writers(events, path, users)
    by_time = [_TIME] if events.feature_set.entity.time else []
    for first, stop in _cuts(users[_LENGTH].to_numpy(), num_parts=num_parts):
        rows = users[first:stop].select(_USER, columns.USER).lazy()
        part = (
            events.frame.join(rows, on=_USER, how="inner")
            .sort(columns.USER, *by_time, columns.ROW)
            .collect(engine="streaming")
        )
        lengths = users[_LENGTH][first:stop].to_numpy()
        part = part.with_columns(_positions(events, part, lengths=lengths))
        for sequence, writer in writers.items():
            of_history = part.filter(columns.keep_column(sequence.name)) if sequence else part
            writer.write(
                first,
                stop,
                values=Rows.from_arrow(of_history.select(writer.features).to_arrow()).columns,
                is_train=(of_history[columns.SPLIT] == "train").fill_null(False).to_numpy(),
            )
        yield part
    for writer in writers.values():
        writer.close()


def _users(events: EncodedEvents) -> pl.DataFrame:
    """Raw users by history row, with the lengths of their histories.

    Their order is random, so that the users of a part are no special ones, but always the same.
    """
    kept = [columns.keep_column(s.name) for s in events.filtered]
    users = (
        events.frame.group_by(_USER)
        .agg(pl.len().alias(_LENGTH), *(pl.col(k).sum() for k in kept))
        .collect(engine="streaming")
        .sort(_USER)
        .with_columns(pl.col(_LENGTH, *kept).cast(pl.Int64))
    )
    order = np.random.default_rng(0).permutation(len(users))
    return users[order].with_row_index(columns.USER)


def _history_writers(
    events: EncodedEvents, path: Path, users: pl.DataFrame
) -> dict[Sequence | None, HistoryWriter]:
    """By sequence with a `where`; None stands for the history of all events."""

    def writer(
        path: Path, kept: str | None, features: set[str], sequences: Iterable[Sequence]
    ) -> HistoryWriter:
        dtypes = {f: _numpy_dtype(id_dtype(events.schema, f)) for f in sorted(features)}
        timed = [columns.time_column(s.name) for s in sequences if s.times is not None]
        dtypes |= dict.fromkeys(timed, np.dtype(np.int64))
        return HistoryWriter(
            path,
            lengths=users[kept or _LENGTH].to_numpy(),
            dtypes=dtypes,
            num_values=_num_values(events, features, kept=kept),
        )

    item = item_feature(events.feature_set)
    sequences = events.feature_set.of_kind(Sequence)
    read = {name for s in sequences for name in s.columns} | ({item.name} if item else set())
    whole = [s for s in sequences if not s.where]
    writers: dict[Sequence | None, HistoryWriter] = {
        None: writer(path / HISTORIES, None, read, whole)
    }
    for s in events.filtered:
        kept = columns.keep_column(s.name)
        writers[s] = writer(filtered_path(path, s.name), kept, set(s.columns), [s])
    return writers


def _num_values(
    events: EncodedEvents, features: Iterable[str], *, kept: str | None
) -> dict[str, int]:
    """Values of all events together, of the features that may have several per event.

    Args:
        events: What to count.
        features: Names.
        kept: Column that says which events count. None: all.
    """
    lists = [name for name in sorted(features) if events.schema.is_multi_valued(name)]
    if not lists:
        return {}
    frame = events.frame if kept is None else events.frame.filter(kept)
    sums = frame.select(pl.col(lists).list.len().cast(pl.Int64).sum())
    return sums.collect(engine="streaming").row(0, named=True)


def _cuts(lengths: NDArray[np.int64], *, num_parts: int) -> Iterator[tuple[int, int]]:
    """Ranges of history rows with about the same number of events."""
    ends = np.cumsum(lengths)
    num_events = int(ends[-1]) if len(ends) else 0
    inner = np.searchsorted(ends, np.arange(1, num_parts) * (num_events / num_parts))
    bounds = np.unique([0, *inner, len(lengths)])
    for first, stop in pairwise(bounds):
        yield int(first), int(stop)


def _positions(
    events: EncodedEvents, part: pl.DataFrame, *, lengths: NDArray[np.int64]
) -> list[pl.Series]:
    """How many events of the same history come before each event.

    Args:
        events: Says which histories there are.
        part: Events of whole histories in order.
        lengths: Events of each history.
    """
    firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)  # of each event's history
    place = np.arange(len(part))
    positions = [pl.Series(columns.POSITION, place - firsts, dtype=pl.UInt32)]
    for sequence in events.filtered:
        kept = part[columns.keep_column(sequence.name)].to_numpy().astype(np.int64)
        before = np.cumsum(kept) - kept
        name = position_column(sequence)
        positions.append(pl.Series(name, before - before[firsts], dtype=pl.UInt32))
    return positions


def _numpy_dtype(dtype: type[pl.DataType]) -> np.dtype:
    return pl.Series([], dtype=dtype).to_numpy().dtype
