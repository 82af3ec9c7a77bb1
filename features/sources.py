"""Finding and joining the Parquet files: raw events with their attributes, lazily."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path

import polars as pl

from features.columns import ROW
from features.errors import DataError, did_you_mean
from features.needs import Need, needs
from features.raw_checks import reserved_columns, type_mistakes
from features.spec import AttributeSource, EventSource, FeatureSet
from features.sql import parse_sql
from features.times import as_instant, time_problem

_PATHS = "_path"


def source_files(feature_set: FeatureSet, data_dir: Path) -> dict[str, list[Path]]:
    """The files of each source: of a glob sorted by path, of a list in its order.

    Args:
        feature_set: Names the files.
        data_dir: Directory that the paths start from.

    Raises:
        DataError: a file is missing, or a glob finds none.
    """
    mistakes: list[str] = []
    found = {
        name: _find(source, name=name, data_dir=data_dir, mistakes=mistakes)
        for name, source in feature_set.sources.items()
    }
    if mistakes:
        raise DataError(mistakes)
    return found


def scan_events(
    feature_set: FeatureSet, data_dir: Path, *, require_labels: bool = True
) -> pl.LazyFrame:
    """All events with `_row`, their attributes and a ready time column.

    Order of what happens: row numbers, `file_column`, joins, time, `events.where`. The time is a
    UTC datetime without zone, in microseconds, unless it is a number without unit.

    Args:
        feature_set: What is needed of which file.
        data_dir: Directory that the paths start from.
        require_labels: False for data to score: labels, weight and split column may be absent.

    Raises:
        DataError: with all that is wrong with files, columns and types.
    """
    files = source_files(feature_set, data_dir)
    check_columns(feature_set, _schemas(files), require_labels=require_labels)
    tables = {
        name: pl.scan_parquet(files[name], glob=False, extra_columns="ignore")
        for name in feature_set.attributes
    }
    check_keys(feature_set, tables)
    log = _scan_log(feature_set.events, files["events"])
    return join_events(feature_set, log, tables=tables, require_labels=require_labels)


def check_columns(
    feature_set: FeatureSet,
    schemas: Mapping[str, Mapping[str, pl.DataType]],
    *,
    require_labels: bool,
) -> None:
    """Check that every column is there once, and that keys fit.

    Args:
        feature_set: What is needed.
        schemas: Columns and types of each source.
        require_labels: False for data to score.

    Raises:
        DataError: with all that is wrong, also with types that do not fit.
    """
    needed = needs(feature_set, with_labels=require_labels)
    mistakes = _column_mistakes(feature_set, schemas, needed=needed)
    if mistakes:
        there, of_time = _with_time(feature_set, _nothing(feature_set, schemas))
        of_types = type_mistakes(feature_set, there, with_labels=require_labels, is_whole=False)
        raise DataError([*mistakes, *of_time, *of_types])


def check_keys(feature_set: FeatureSet, tables: Mapping[str, pl.LazyFrame]) -> None:
    """Check that no attribute table has a key twice.

    Args:
        feature_set: Names the keys.
        tables: The attribute tables.

    Raises:
        DataError: with the first such key of each table.
    """
    mistakes = []
    for name, source in feature_set.attributes.items():
        key = pl.col(source.on)
        twice = (
            tables[name]
            .select(key)
            .drop_nulls()
            .group_by(key)
            .len()
            .filter(pl.col("len") > 1)
            .sort(source.on)
            .collect(engine="streaming")
        )
        if len(twice):
            value, count = twice.row(0)
            mistakes.append(
                f"sources.{name}: key {source.on!r} must be unique, got {value!r} in "
                f"{count} rows ({len(twice)} such values); drop the duplicates"
            )
    if mistakes:
        raise DataError(mistakes)


def join_events(
    feature_set: FeatureSet,
    log: pl.LazyFrame,
    *,
    tables: Mapping[str, pl.LazyFrame],
    require_labels: bool,
    raw_time: str | None = None,
) -> pl.LazyFrame:
    """Events with their attributes and a ready time column, without those that do not exist.

    Args:
        feature_set: What is needed.
        log: Raw events, all of them or some, with `_row` and `file_column`.
        tables: The attribute tables, which `check_keys` has passed.
        require_labels: False for data to score.
        raw_time: Name under which the time column is also kept as it was.

    Raises:
        DataError: with all types that do not fit.
    """
    wanted = {need.column for need in needs(feature_set, with_labels=require_labels)}
    frame = _join_attributes(feature_set, log, tables=tables, wanted=wanted)
    if raw_time is not None and feature_set.entity.time is not None:
        frame = frame.with_columns(pl.col(feature_set.entity.time.column).alias(raw_time))
    frame, mistakes = _with_time(feature_set, frame)
    mistakes += type_mistakes(feature_set, frame, with_labels=require_labels)
    if mistakes:
        raise DataError(mistakes)
    where = feature_set.events.where
    return frame if where is None else frame.filter(parse_sql(where))


def _find(
    source: EventSource | AttributeSource, *, name: str, data_dir: Path, mistakes: list[str]
) -> list[Path]:
    found: list[Path] = []
    for pattern in (source.path,) if isinstance(source.path, str) else source.path:
        path = data_dir / pattern
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            mistakes.append(
                f"sources.{name}: is a directory, got {str(path)!r}; "
                f"write `{pattern.rstrip('/')}/*.parquet`"
            )
        elif glob.has_magic(pattern):
            found_names = glob.glob(pattern, root_dir=data_dir, recursive=True)
            names = [name for name in found_names if _is_meant(name, pattern)]
            matches = sorted(data_dir / name for name in names)
            found += [match for match in matches if match.is_file()]
            if not matches:
                mistakes.append(f"sources.{name}: no file matches {str(path)!r}")
        else:
            beside = [p.name for p in path.parent.glob("*.parquet")] if path.parent.is_dir() else []
            mistakes.append(
                f"sources.{name}: no such file, got {str(path)!r}{did_you_mean(path.name, beside)}"
            )
    twice = [file for file, count in Counter(found).items() if count > 1]
    mistakes += [f"sources.{name}: a file is named twice, got {str(file)!r}" for file in twice[:1]]
    return found


def _is_meant(name: str, pattern: str) -> bool:
    """Whether no wildcard of a glob stands for the beginning of a name that writers keep."""
    given = [part for part in pattern.split("/") if part.startswith("_")]
    return not any(
        part.startswith("_") and not any(fnmatch(part, own) for own in given)
        for part in name.split("/")
    )


def _schemas(files: dict[str, list[Path]]) -> dict[str, dict[str, pl.DataType]]:
    """Columns and types of each source; its files must agree, and hold a row at least."""
    mistakes: list[str] = []
    schemas: dict[str, dict[str, pl.DataType]] = {}
    for name, paths in files.items():
        num_rows = 0
        for path in paths:
            try:
                schema = dict(pl.read_parquet_schema(path))
                num_rows += pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
            except (pl.exceptions.PolarsError, OSError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                mistakes.append(f"{path}: is no readable Parquet file ({reason}); write it again")
                continue
            first = schemas.setdefault(name, schema)
            for column, dtype in first.items():
                if schema.get(column) != dtype:
                    got = f"type {schema[column]}" if column in schema else "no such column"
                    mistakes.append(
                        f"{path}: column {column!r} must be of type {dtype}, as in "
                        f"{paths[0].name}, got {got}"
                    )
        if num_rows == 0 and name in schemas:
            mistakes.append(f"sources.{name}: has no rows, got {_names(paths)}")
    if mistakes:
        raise DataError(mistakes)
    return schemas


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")


def _column_mistakes(
    feature_set: FeatureSet,
    schemas: Mapping[str, Mapping[str, pl.DataType]],
    *,
    needed: list[Need],
) -> list[str]:
    """Columns that are missing, doubled or reserved, and keys that do not fit."""
    mistakes: list[str] = []
    known: dict[str, pl.DataType] = dict(schemas["events"])
    home = dict.fromkeys(known, "events")
    file_column = feature_set.events.file_column
    if file_column is not None:
        if file_column in known:
            mistakes.append(
                f"sources.events.file_column: the data has this column already, "
                f"got {file_column!r}; choose another name"
            )
        known[file_column], home[file_column] = pl.String(), "events"
    wanted = {need.column for need in needed}
    for name, source in feature_set.attributes.items():
        schema = schemas[name]
        mistakes += _key_mistakes(name, source.on, schema=schema, known=known)
        for column in schema:
            if column == source.on:
                continue
            if column in known and column in wanted:
                mistakes.append(
                    f"sources.{name}: column {column!r} is also in {home[column]}; "
                    f"rename one of them"
                )
            known.setdefault(column, schema[column])
            home.setdefault(column, name)
    for column in reserved_columns(known):
        mistakes.append(f"sources.{home[column]}: column name {column!r} is reserved; rename it")
    for need in needed:
        if need.column not in known and not need.is_key:
            searched = ", ".join(feature_set.sources)
            mistakes.append(
                f"{need.where}: no column {need.column!r} in {searched}"
                f"{did_you_mean(need.column, known)}; "
                f"available {', '.join(sorted(known))}"
            )
    return mistakes


def _nothing(
    feature_set: FeatureSet, schemas: Mapping[str, Mapping[str, pl.DataType]]
) -> pl.LazyFrame:
    """No rows of the columns that there are."""
    known: dict[str, pl.DataType] = {}
    for name in reversed(("events", *feature_set.attributes)):
        known |= schemas[name]
    if feature_set.events.file_column is not None:
        known[feature_set.events.file_column] = pl.String()
    return pl.LazyFrame(schema=known)


def _key_mistakes(
    name: str, key: str, *, schema: Mapping[str, pl.DataType], known: Mapping[str, pl.DataType]
) -> list[str]:
    mistakes = [
        f"sources.{name}.on: no column {key!r} in {where}{did_you_mean(key, columns)}; "
        f"available {', '.join(sorted(columns))}"
        for where, columns in (("the events", known), (name, schema))
        if key not in columns
    ]
    if not mistakes:
        theirs, ours = schema[key], known[key]
        if theirs != ours and not (theirs.is_integer() and ours.is_integer()):
            mistakes.append(
                f"sources.{name}.on: key {key!r} must be of one type in both tables, "
                f"got {ours} in the events and {theirs} in {name}; convert one"
            )
    return mistakes


def _scan_log(events: EventSource, files: list[Path]) -> pl.LazyFrame:
    frame = pl.scan_parquet(
        files,
        glob=False,
        row_index_name=ROW,
        include_file_paths=None if events.file_column is None else _PATHS,
        extra_columns="ignore",
    ).with_columns(pl.col(ROW).cast(pl.Int64))
    if events.file_column is not None:
        file_name = pl.col(_PATHS).str.replace(r"^.*[/\\]", "")
        frame = frame.with_columns(file_name.alias(events.file_column)).drop(_PATHS)
    return frame


def _join_attributes(
    feature_set: FeatureSet,
    frame: pl.LazyFrame,
    *,
    tables: Mapping[str, pl.LazyFrame],
    wanted: Collection[str],
) -> pl.LazyFrame:
    """Left joins, only of what is needed, in the order of the file."""
    for name, source in feature_set.attributes.items():
        columns = frame.collect_schema()
        theirs = tables[name].collect_schema().names()
        taken = [column for column in theirs if column in wanted and column not in columns]
        if taken:
            matching = pl.col(source.on).cast(columns[source.on], strict=False)
            frame = frame.join(
                tables[name].select(matching, *taken).drop_nulls(source.on),
                on=source.on,
                how="left",
                maintain_order="left",
            )
    return frame


def _with_time(feature_set: FeatureSet, frame: pl.LazyFrame) -> tuple[pl.LazyFrame, list[str]]:
    """The frame with its time made ready, and what is wrong with that; then it has no instants."""
    time = feature_set.entity.time
    dtype = None if time is None else frame.collect_schema().get(time.column)
    if time is None or dtype is None:
        return frame, []
    problem = time_problem(time, dtype)
    if problem:
        none = pl.lit(None, dtype=pl.Datetime("us")).alias(time.column)
        return frame.with_columns(none), [f"entity.time: column {time.column!r} {problem}"]
    return frame.with_columns(as_instant(time, dtype)), []
