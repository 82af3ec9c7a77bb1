"""The Parquet files that a first feature file is made of: events, and tables that join them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from features.errors import DataError
from features.infer.names import source_name, words_of
from features.infer.profile import ColumnProfile, profile_columns, sample_rows
from features.raw_checks import reserved_columns
from features.values import same_kind, value_type

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing", "holdout"),
}


@dataclass(frozen=True, eq=False)
class Table:
    """Files of the same columns.

    Attributes:
        name: In the feature file.
        files: In the order given.
        frame: All their rows.
        sample: Some of them, or all.
        columns: What they look like.
        num_rows: In all.
    """

    name: str
    files: tuple[Path, ...]
    frame: pl.LazyFrame
    sample: pl.DataFrame
    columns: Mapping[str, ColumnProfile]
    num_rows: int


@dataclass(frozen=True, eq=False)
class Attributes:
    """A table of attributes and how it joins.

    Attributes:
        table: Its rows.
        key: Column of this name in both tables, unique in this one.
        num_unmatched: Events whose key it lacks, or that have none.
    """

    table: Table
    key: str
    num_unmatched: int


def read_files(files: Sequence[Path]) -> tuple[Table, tuple[Attributes, ...]]:
    """Events and attributes: the first file is of events, and so are those with its columns.

    Raises:
        DataError: with all files that cannot be read or joined.
    """
    schemas = _schemas(files)
    of_events = tuple(file for file in files if schemas[file] == schemas[files[0]])
    reserved = [
        f"{file}: column name {column!r} is reserved, as names that start with _ may be; rename it"
        for file in files
        for column in reserved_columns(schemas[file])
    ]
    if reserved:
        raise DataError(reserved)
    events = _table("events", of_events)
    found: list[Attributes] = []
    mistakes: list[str] = []
    names = {"events"}
    for file in files:
        if file in of_events:
            continue
        name = source_name(file.stem, taken=names)
        names.add(name)
        table = _table(name, (file,))
        try:
            found.append(_joined(table, events))
        except DataError as error:
            mistakes += error.mistakes
    if mistakes:
        raise DataError(mistakes)
    return events, tuple(found)


def common_folder(files: Iterable[Path]) -> Path:
    """The deepest folder that holds all files."""
    return Path(os.path.commonpath([file.resolve().parent for file in files]))


def parts_by_name(files: Sequence[Path]) -> dict[str, tuple[str, ...]] | None:
    """File names of training, validation and test, where names tell them; None where not."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for file in files:
        words = re.findall(r"[a-z]+", file.stem.lower())
        said = [part for part, names in PARTS.items() if set(words) & set(names)]
        if len(said) != 1:
            return None
        parts[said[0]].append(file.name)
    names = [file.name for file in files]
    if len(set(names)) < len(names) or not parts["train"] or not (parts["val"] or parts["test"]):
        return None
    return {part: tuple(names) for part, names in parts.items()}


def _schemas(files: Sequence[Path]) -> dict[Path, dict[str, pl.DataType]]:
    mistakes, schemas = [], {}
    for file in files:
        if not file.is_file():
            what = "is a folder" if file.is_dir() else "no such file"
            mistakes.append(f"{file}: {what}; name one Parquet file after the other")
            continue
        try:
            schemas[file] = dict(pl.read_parquet_schema(file))
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            mistakes.append(f"{file}: is no readable Parquet file ({reason}); write it as Parquet")
    if len(set(files)) < len(files):
        mistakes.append("the same file is named twice; name each once")
    if mistakes:
        raise DataError(mistakes)
    return schemas


def _table(name: str, files: tuple[Path, ...]) -> Table:
    frame = pl.scan_parquet(list(files), glob=False)
    num_rows = int(frame.select(pl.len()).collect().item())
    if num_rows == 0:
        raise DataError(f"{', '.join(map(str, files))}: has no rows; name a file with some")
    sample = sample_rows(frame, num_rows=num_rows)
    columns = profile_columns(frame, sample, num_rows=num_rows)
    return Table(name, files, frame, sample, columns, num_rows)


def _joined(table: Table, events: Table) -> Attributes:
    """By the column that both have and that is unique in the attributes."""
    common = [name for name in table.columns if name in events.columns]
    unique = [n for n in common if _is_key(table.columns[n])]
    fitting = [n for n in unique if _same_type(table.columns[n], events.columns[n])]
    where = ", ".join(map(str, table.files))
    if not common:
        raise DataError(
            f"{where}: has no column in common with {events.files[0].name}, got "
            f"{', '.join(table.columns)}; allowed a table of attributes with the key column of "
            f"the events; rename its key, or leave the file out"
        )
    if not unique:
        raise DataError(
            f"{where}: joins the events by no column, as none of {', '.join(common)} is unique in "
            f"it; allowed one row per key; drop the duplicates, or leave the file out"
        )
    if not fitting:
        theirs, ours = (t.columns[unique[0]].dtype for t in (table, events))
        raise DataError(
            f"{where}: key {unique[0]!r} must be of one type in both tables, got {ours} in the "
            f"events and {theirs} here; convert one"
        )
    words = {word.removesuffix("s") for word in words_of(table.name)}
    key = min(fitting, key=lambda n: (not words & set(words_of(n)), list(table.columns).index(n)))
    keys = table.frame.select(pl.col(key).cast(events.columns[key].dtype, strict=False))
    unmatched = events.frame.select(key).join(keys, on=key, how="anti").select(pl.len())
    return Attributes(table, key, int(unmatched.collect(engine="streaming").item()))


def _is_key(column: ColumnProfile) -> bool:
    return column.may_be_id and column.num_present == column.num_distinct > 0


def _same_type(first: ColumnProfile, second: ColumnProfile) -> bool:
    ours, theirs = value_type(first.dtype), value_type(second.dtype)
    if ours is None or theirs is None or not same_kind(ours, theirs):
        return False
    return first.is_whole_number or first.dtype == second.dtype
