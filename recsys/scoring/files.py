"""Which Parquet files are read: a file, a folder, a glob or an object store's URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from glob import has_magic
from pathlib import Path
from urllib.parse import quote, unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from features.checks import reading
from features.errors import DataError, RunConfigError, did_you_mean
from features.sources import source_files
from features.spec import FeatureSet

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_SHOWN = "(?![_.])"  # of a regular expression: a name that writers do not keep for themselves


@dataclass(frozen=True)
class InputFile:
    """A Parquet file as it was when it was found.

    Attributes:
        path: Absolute path or URL.
        num_bytes: Its size.
        modified_ns: Since 1970; 0 where the store does not say.
        groups: Rows of each row group.
        partition: Column and text of each folder `column=text` below the path that was given.
    """

    path: str
    num_bytes: int
    modified_ns: int
    groups: tuple[int, ...]
    partition: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def num_rows(self) -> int:
        """Of all row groups."""
        return sum(self.groups)

    def scan(self) -> pl.LazyFrame:
        """Its rows; columns that are not asked for do not matter."""
        path = quote(self.path, safe="/:=") if self.path.startswith("file://") else self.path
        return pl.scan_parquet(path, glob=False, hive_partitioning=False, extra_columns="ignore")

    @property
    def name(self) -> str:
        """Without its folders."""
        return self.path.rpartition("/")[2]


def find_sources(
    feature_set: FeatureSet, data: str, *, given: Mapping[str, str]
) -> dict[str, tuple[InputFile, ...]]:
    """The files of each source, in the order in which they are read.

    Args:
        feature_set: Names the sources.
        data: Folder, or URL of one, that their paths start from; or the event log itself, where it
            is a file or a glob.
        given: Paths that take the place of those of the feature file.

    Raises:
        DataError: a source is not there, or a file cannot be read.
        RunConfigError: `given` names no source, or some twice.
    """
    paths: dict[str, tuple[str, ...]] = {name: (path,) for name, path in given.items()}
    is_glob = has_magic(data) and not _is_folder(data)
    if is_glob or data.endswith(".parquet") or Path(data).is_file():
        if "events" in given:
            raise RunConfigError(
                f"--source: the events are named twice, got {data!r} and {given['events']!r}; "
                f"give a folder as DATA, or leave out --source events"
            )
        paths["events"] = (data,)
        data = _folder_of(data)
    unknown = [name for name in paths if name not in feature_set.sources]
    if unknown:
        raise RunConfigError(
            f"--source: no such source, got {unknown[0]!r}; allowed "
            f"{', '.join(feature_set.sources)}{did_you_mean(unknown[0], feature_set.sources)}"
        )
    rest = {n: s for n, s in feature_set.sources.items() if n not in paths}
    root, local = str(Path(data).absolute()), rest
    if _is_url(data):
        root, local = data.rstrip("/"), {}
        for name, source in rest.items():
            patterns = (source.path,) if isinstance(source.path, str) else source.path
            paths[name] = tuple(f"{root}/{pattern}" for pattern in patterns)
    found = {
        name: [(str(file.absolute()), root) for file in files]
        for name, files in source_files(
            feature_set.model_copy(update={"sources": local}), Path(data)
        ).items()
    }
    mistakes: list[str] = []
    for name, several in paths.items():
        for path in several:
            below, files = _expand(path, name, mistakes)
            if name in rest:
                below = root
            elif name == "events":  # a nightly log is often that of one folder `day=...`
                below = _above_partitions(path) or below
            found.setdefault(name, []).extend((file, below) for file in files)
    opened = {
        name: [_opened(path, mistakes, root=root) for path, root in found[name]]
        for name in feature_set.sources
    }
    if mistakes:
        raise DataError(mistakes)
    files = {n: tuple(f for f in opened[n] if f is not None) for n in opened}
    empty = [n for n in files if not any(f.num_rows for f in files[n])]
    if empty:
        raise DataError(
            f"sources.{name}: has no rows, got {', '.join(f.name for f in files[name][:3])}"
            for name in empty
        )
    return files


def common_schemas(
    files: Mapping[str, tuple[InputFile, ...]],
) -> dict[str, dict[str, pl.DataType]]:
    """Columns and types of each source, with those that folders name.

    Raises:
        DataError: the files of a source do not agree.
    """
    mistakes: list[str] = []
    schemas: dict[str, dict[str, pl.DataType]] = {}
    for name, of_source in files.items():
        for file in of_source:
            with reading(file.path):
                schema = dict(file.scan().collect_schema())
            first = schemas.setdefault(name, schema)
            for column, dtype in first.items():
                if schema.get(column) != dtype:
                    got = f"type {schema[column]}" if column in schema else "no such column"
                    mistakes.append(
                        f"{file.path}: column {column!r} must be of type {dtype}, as in "
                        f"{of_source[0].name}, got {got}"
                    )
    if mistakes:
        raise DataError(mistakes)
    partitions = {name: partition_types(of_source) for name, of_source in files.items()}
    return {name: {**partitions[name], **schema} for name, schema in schemas.items()}


def partition_types(files: tuple[InputFile, ...]) -> dict[str, pl.DataType]:
    """Type of each column that folders name: whole numbers, dates, else text."""
    names = dict.fromkeys(name for file in files for name in file.partition)
    return {name: _type_of({f.partition.get(name, _NO_VALUE) for f in files}) for name in names}


def partition_value(text: str | None, dtype: pl.DataType) -> pl.Expr:
    """What a folder says of its rows.

    Args:
        text: None where the file lies in no such folder.
        dtype: One of `partition_types`.
    """
    if text is None or text == _NO_VALUE:
        return pl.lit(None, dtype=dtype)
    if dtype == pl.Date:
        return pl.lit(date.fromisoformat(text))
    return pl.lit(int(text) if dtype == pl.Int64 else text, dtype=dtype)


def _type_of(texts: set[str]) -> pl.DataType:
    known = texts - {_NO_VALUE}
    # Others, as `007`, would not be the text of their number.
    if known and all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in known):
        return pl.Int64()
    if known and all(_is_date(text) for text in known):
        return pl.Date()
    return pl.String()


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _folder_of(path: str) -> str:
    """The folder of a file, or that above the first name of a glob."""
    folder = path.rpartition("/")[0] if _is_url(path) else str(Path(path).parent)
    return _folder_of(folder) if has_magic(folder) and not _is_folder(folder) else folder


def _is_url(path: str) -> bool:
    return "://" in path


@dataclass(frozen=True)
class _Place:
    """A path in a file system.

    Attributes:
        system: That of the scheme, or the local one.
        inside: What it calls the path.
        prefix: What takes the place of `root` in a URL.
        root: What all its paths begin with.
    """

    system: fs.FileSystem
    inside: str
    prefix: str = ""
    root: str = ""

    @classmethod
    def of(cls, path: str) -> _Place:
        if not _is_url(path):
            return cls(fs.LocalFileSystem(), str(Path(path).absolute()))
        scheme, _, rest = path.partition("://")
        authority, _, key = rest.partition("/")
        # The key stays as it is: a glob is no legal part of a URL.
        system, root = fs.FileSystem.from_uri(f"{scheme}://{authority}/")
        root = root.rstrip("/")
        return cls(system, f"{root}/{key}", f"{scheme}://{authority}", root)

    def url(self, inside: str) -> str:
        """The URL, or path, of a path of this system."""
        return self.prefix + inside.removeprefix(self.root)


def _expand(path: str, source: str, mistakes: list[str]) -> tuple[str, list[str]]:
    """What all paths begin with, and those of the files; of folders and globs sorted."""
    try:
        place = _Place.of(path)
        system, inside = place.system, place.inside
        below, names = _cut(system, inside)
        if names:
            matches = re.compile(re.escape(f"{below}/") + _pattern(names)).fullmatch
        else:
            info = system.get_file_info(inside)
            if info.type == fs.FileType.File:
                return path, [place.url(inside)]
            below = inside.rstrip("/")
            start = len(below) + 1
            matches = lambda p: p.endswith(".parquet") and _is_shown(p[start:])  # noqa: E731
        listed = system.get_file_info(fs.FileSelector(below or "/", recursive=True))
    except (OSError, pa.ArrowException) as error:
        mistakes.append(f"sources.{source}: cannot be listed, got {path!r} ({_first_line(error)})")
        return path, []
    found = [i.path for i in listed if i.type == fs.FileType.File and matches(i.path)]
    if not found:
        mistakes.append(f"sources.{source}: no Parquet file there, got {path!r}")
    return place.url(below), [place.url(p) for p in sorted(found)]


def _above_partitions(path: str) -> str:
    """The folder of the first `name=value` of a path that was given; empty where there is none."""
    above, equals, _ = path.partition("=")
    if not equals or has_magic(above):
        return ""
    folder = above.rpartition("/")[0]
    return folder if _is_url(path) else str(Path(folder).absolute())


def _is_folder(path: str) -> bool:
    """Whether it is there as it stands."""
    try:
        place = _Place.of(path)
        return place.system.get_file_info(place.inside).type == fs.FileType.Directory
    except (OSError, pa.ArrowException):
        return False


def _cut(system: fs.FileSystem, path: str) -> tuple[str, list[str]]:
    """A path up to its first name that is a glob, and the names from there on.

    A name that is there as it stands is none.
    """
    below, *names = path.split("/")
    while names:
        longer = f"{below}/{names[0]}"
        if has_magic(names[0]) and system.get_file_info(longer).type == fs.FileType.NotFound:
            break
        below = longer
        del names[0]
    return below, names


def _is_shown(path: str) -> bool:
    """Whether no folder or file of the path is one that writers keep for themselves."""
    return not any(part.startswith(("_", ".")) for part in path.split("/"))


def _pattern(names: list[str]) -> str:
    """Names of a glob as a regular expression: `**/` is any number of folders.

    No wildcard stands for the beginning of a name that writers keep for themselves.
    """
    *folders, name = [*names, "*.parquet"] if names[-1] == "**" else names
    any_number = f"(?:{_SHOWN}[^/]+/)*"
    above = (any_number if folder == "**" else f"{_of_name(folder)}/" for folder in folders)
    return "".join(above) + _of_name(name)


def _of_name(name: str) -> str:
    special = {"*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*|\?|\[[^]]+\])", name)
    found = "".join(
        special.get(t) or (t.replace("[!", "[^") if t.startswith("[") else re.escape(t))
        for t in tokens
    )
    return _SHOWN + found if has_magic(name[:1]) else found


def _partition(path: str, root: str) -> dict[str, str]:
    if not path.startswith(f"{root}/"):
        return {}
    folders = [part.partition("=") for part in path.removeprefix(root).split("/")[:-1]]
    return {unquote(name): unquote(text) for name, equals, text in folders if name and equals}


def _opened(path: str, mistakes: list[str], *, root: str) -> InputFile | None:
    try:
        place = _Place.of(path)
        info = place.system.get_file_info(place.inside)
        with place.system.open_input_file(place.inside) as stream:
            metadata = pq.read_metadata(stream)
    except (OSError, pa.ArrowException) as error:
        mistakes.append(
            f"{path}: is no readable Parquet file ({_first_line(error)}); write it again"
        )
        return None
    groups = tuple(metadata.row_group(g).num_rows for g in range(metadata.num_row_groups))
    return InputFile(path, info.size, info.mtime_ns or 0, groups, _partition(path, root))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
