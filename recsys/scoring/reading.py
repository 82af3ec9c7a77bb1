"""The raw events of a part, with what is wrong with some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from features.checks import Check, reading, value_checks
from features.columns import RESERVED_PREFIX, ROW
from features.encode import encode
from features.errors import DataError, did_you_mean
from features.needs import needs
from features.schema import FeatureSchema
from features.sources import check_columns, check_keys, join_events
from features.values import raw_types
from recsys.scoring.files import InputFile, common_schemas, partition_types, partition_value
from recsys.scoring.plan import Piece, Plan

FILE, ROW_IN_FILE, REASON = "_file", "_row_in_file", "_reason"
_RAW_TIME = "_raw_time"


@dataclass(frozen=True)
class Events:
    """Raw events of a part, joined with their attributes.

    Attributes:
        part: Its number.
        pieces: Where they come from.
        frame: Those that exist, with `_row`.
        num_read: Rows that were read, with those that `events.where` leaves out.
    """

    part: int
    pieces: tuple[Piece, ...]
    frame: pl.DataFrame
    num_read: int

    @property
    def where(self) -> str:
        """The rows, as in messages."""
        return f"part {self.part}"


class EventReader:
    """Reads parts of the log; keeps the attribute tables in memory.

    Args:
        schema: What the model was trained with.
        plan: What is read.

    Attributes:
        schema: Without labels and weight, which scoring does not read.
        columns: What is read of each event.
        parts: Pieces of each part.

    Raises:
        DataError: a column is missing or of another type, or a key is there twice.
    """

    def __init__(self, schema: FeatureSchema, plan: Plan) -> None:
        feature_set = schema.feature_set.model_copy(update={"label": (), "weight": None})
        self.schema = replace(schema, feature_set=feature_set)
        self._plan = plan
        self.parts = plan.parts
        schemas = common_schemas(plan.sources)
        check_columns(feature_set, schemas, require_labels=False)
        wanted = {need.column for need in needs(feature_set, with_labels=False)}
        self._partitions = {name: partition_types(plan.sources[name]) for name in schemas}
        self._tables = {
            name: self._attributes(name, [c for c in schemas[name] if c in wanted])
            for name in feature_set.attributes
        }
        check_keys(feature_set, self._tables)
        keys = plan.settings.key_columns
        file_column = feature_set.events.file_column
        in_log = [c for c in schemas["events"] if c in wanted or c in keys]
        self.columns = tuple(in_log)
        nothing = pl.DataFrame(schema={ROW: pl.Int64, **{c: schemas["events"][c] for c in in_log}})
        if file_column is not None:
            nothing = nothing.with_columns(pl.lit("").alias(file_column))
        joined = self._joined(nothing.lazy())
        known = {*joined.collect_schema(), *schemas["events"]}
        _check_keys(keys, sorted(c for c in known if not c.startswith(RESERVED_PREFIX)))
        encode(self.schema, joined, with_labels=False)

    @property
    def num_parts(self) -> int:
        """Parts of the event log."""
        return len(self.parts)

    def read(self, part: int) -> Events:
        """Read a part.

        Raises:
            DataError: a file or an expression cannot be read.
        """
        pieces = self.parts[part]
        frames = [self._piece(piece) for piece in pieces]
        log = pl.concat(frames) if len(frames) > 1 else frames[0]
        with reading(f"{self._plan.log[pieces[0].file].path}, part {part}"):
            frame = self._joined(log.lazy()).collect()
        return Events(part, pieces, frame, num_read=len(log))

    def checked(self, events: Events, *, reject: bool) -> tuple[Events, pl.DataFrame]:
        """The events that can be scored, and those that cannot, with file, row and reason.

        Args:
            events: Of `read`.
            reject: Whether there may be any of the latter.

        Raises:
            DataError: one cannot be scored and `reject` is false; names its file, row and value.
        """
        frame, feature_set = events.frame, self.schema.feature_set
        checks = value_checks(feature_set, raw_types(feature_set, frame.lazy()), with_labels=False)
        with reading(f"{self._plan.log[events.pieces[0].file].path}, part {events.part}"):
            bad = frame.lazy().with_columns(_named(checks)).select(_names(checks)).collect()
        if not bad.select(pl.any_horizontal(pl.all().any())).item() if checks else True:
            return events, self._rejects(events, frame.clear(), reasons=[])
        if not reject:
            raise DataError(self._mistakes(events, checks, bad))
        is_bad = bad.select(pl.any_horizontal(pl.all())).to_series()
        reasons = _reasons(frame.filter(is_bad), checks, bad.filter(is_bad))
        rejects = self._rejects(events, frame.filter(is_bad), reasons=reasons)
        return replace(events, frame=frame.filter(~is_bad)), rejects

    def raw(self, frame: pl.DataFrame, columns: Sequence[str]) -> list[pl.Series]:
        """Columns of events as the data has them.

        Args:
            frame: Of `Events`, or some of its rows.
            columns: Their names.
        """
        time = self.schema.feature_set.entity.time
        if time is not None:
            frame = frame.with_columns(pl.col(_RAW_TIME).alias(time.column))
        return frame.select(columns).get_columns()

    def encode(self, events: Events) -> pl.DataFrame:
        """Ids and numbers of events that passed every check."""
        with reading(events.where):
            return encode(self.schema, events.frame.lazy(), with_labels=False).collect()

    def _piece(self, piece: Piece) -> pl.DataFrame:
        file = self._plan.log[piece.file]
        with reading(file.path):
            of_folders = self._of_folders("events", file, self.columns)
            there = [c for c in self.columns if c not in of_folders]
            rows = file.scan().select(there).slice(piece.start, piece.num_rows).collect()
        if len(rows) != piece.num_rows and there:
            raise DataError(
                f"{file.path}: has changed while it was read, got {len(rows)} rows from row "
                f"{piece.start} on; allowed {piece.num_rows}; run again when it is written"
            )
        first = piece.first_row
        row = pl.int_range(first, first + piece.num_rows, dtype=pl.Int64, eager=True).alias(ROW)
        rows = row.to_frame().with_columns(*rows.get_columns(), **of_folders)
        file_column = self.schema.feature_set.events.file_column
        if file_column is not None:
            rows = rows.with_columns(pl.lit(file.name).alias(file_column))
        return rows.select(ROW, *self.columns, *([file_column] if file_column else []))

    def _joined(self, log: pl.LazyFrame) -> pl.LazyFrame:
        feature_set = self.schema.feature_set
        return join_events(
            feature_set, log, tables=self._tables, require_labels=False, raw_time=_RAW_TIME
        )

    def _attributes(self, name: str, columns: list[str]) -> pl.LazyFrame:
        with reading(f"sources.{name}"):
            frames = [
                file.scan().with_columns(**self._of_folders(name, file, columns)).select(columns)
                for file in self._plan.sources[name]
            ]
            return pl.concat(frames).collect().lazy()

    def _of_folders(
        self, source: str, file: InputFile, columns: Sequence[str]
    ) -> dict[str, pl.Expr]:
        """Those of the columns that the file has not, but folders name."""
        types = self._partitions[source]
        in_file = set(file.scan().collect_schema()) if types else set(columns)
        return {
            c: partition_value(file.partition.get(c), types[c]) for c in columns if c not in in_file
        }

    def _place(self, pieces: tuple[Piece, ...], row: int) -> tuple[str, int]:
        """File, and row in it, of a row of the log."""
        piece = next(p for p in reversed(pieces) if p.first_row <= row)
        return self._plan.log[piece.file].path, piece.start + row - piece.first_row

    def _mistakes(self, events: Events, checks: list[Check], bad: pl.DataFrame) -> list[str]:
        """A message per broken rule, about the first row that breaks it."""
        of_part = f" of part {events.part}" if self.num_parts > 1 else ""
        found = []
        for check, is_bad in zip(checks, bad.get_columns(), strict=True):
            if is_bad.any():
                row = events.frame.row(int(is_bad.arg_true()[0]), named=True)[ROW]
                value = events.frame.filter(pl.col(ROW) == row).select(check.raw.alias("raw"))
                path, in_file = self._place(events.pieces, row)
                found.append(
                    f"{path}: {check.where}: {check.problem} in {is_bad.sum()} rows{of_part}, "
                    f"first in row {in_file}, got {value['raw'].to_list()[0]!r}; {check.remedy}, "
                    f"or leave such rows out with --on-error reject"
                )
        return found

    def _rejects(self, events: Events, frame: pl.DataFrame, *, reasons: list[str]) -> pl.DataFrame:
        places = [self._place(events.pieces, row) for row in frame[ROW]]
        return pl.DataFrame(
            {FILE: [p for p, _ in places], ROW_IN_FILE: [r for _, r in places], REASON: reasons},
            schema={FILE: pl.String, ROW_IN_FILE: pl.Int64, REASON: pl.String},
        ).with_columns(self.raw(frame, self.columns))


def _named(checks: list[Check]) -> list[pl.Expr]:
    return [check.bad.alias(name) for check, name in zip(checks, _names(checks), strict=True)]


def _names(checks: list[Check]) -> list[str]:
    return [f"_bad_{i}" for i in range(len(checks))]


def _reasons(frame: pl.DataFrame, checks: list[Check], bad: pl.DataFrame) -> list[str]:
    reasons: list[list[str]] = [[] for _ in range(len(frame))]
    for check, is_bad in zip(checks, bad.get_columns(), strict=True):
        if is_bad.any():
            values = frame.with_columns(check.raw.alias("_raw"))["_raw"].to_list()
            for place in is_bad.arg_true():
                problem = f"{check.where}: {check.problem}, got {values[place]!r}"
                reasons[place].append(problem)
    return ["; ".join(found) for found in reasons]


def _check_keys(names: tuple[str, ...], there: list[str]) -> None:
    mistakes = [
        f"--columns: no such column in the events, got {name!r}; allowed {', '.join(there)}"
        f"{did_you_mean(name, there)}"
        for name in names
        if name not in there
    ]
    if mistakes:
        raise DataError(mistakes)
