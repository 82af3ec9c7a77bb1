"""The encoded store: examples and histories on disk, built once per feature set and data.

<root>/<key>/manifest.json
             schema/                       the fitted schema
             users.parquet                 raw user id by history row
             examples/{train,val,test}/    Parquet, in row groups
             histories/                    flat arrays, see `Histories`
             histories/filtered/NAME/      those of a sequence with a `where`
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import xxhash
from filelock import FileLock
from numpy.typing import NDArray

from features.errors import DataError, SchemaMismatchError
from features.fit import fit_file
from features.schema import FeatureSchema
from features.sources import source_files
from features.spec import FeatureSet, Sequence
from features.storage import load_schema, save_schema
from recsys.data.building import build
from recsys.data.fingerprint import fingerprint_files
from recsys.data.histories import Histories
from recsys.data.layout import (
    EXAMPLES,
    HISTORIES,
    SCHEMA,
    USERS,
    dense_features,
    filtered_path,
)

FORMAT_VERSION = 2
MANIFEST = "manifest.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself.

    Attributes:
        format_version: Of this layout.
        schema_fingerprint: Of the schema its examples are encoded with.
        data_fingerprint: Of the raw files.
        rows: Examples by split.
        labels: Names of the targets.
        dense: Dense and vector features, in the order of `Batch.dense_BN`.
        file_bytes: Size of every file.
    """

    format_version: int
    schema_fingerprint: str
    data_fingerprint: str
    rows: dict[str, int]
    labels: list[str]
    dense: list[str]
    file_bytes: dict[str, int]


@dataclass(frozen=True)
class EncodedStore:
    """A complete store. `prepare` makes one, `open` finds one.

    Attributes:
        path: Its directory.
        manifest: What it holds.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> EncodedStore:
        """Open a store after checking that no file is missing or cut short.

        Raises:
            DataError: it is not whole, or of another format.
        """
        try:
            manifest = Manifest(**json.loads((path / MANIFEST).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path}: {MANIFEST} cannot be read, got {error}; {_MEND}") from error
        if manifest.format_version != FORMAT_VERSION:
            raise DataError(
                f"{path}: store of another format, got {manifest.format_version}; "
                f"allowed {FORMAT_VERSION}; {_MEND}"
            )
        found = file_bytes(path)
        mistakes = [
            f"{path}: {name} is damaged, got {found.get(name, 'no file')}; "
            f"allowed {size} bytes; {_MEND}"
            for name, size in manifest.file_bytes.items()
            if found.get(name) != size
        ]
        if mistakes:
            raise DataError(mistakes)
        return cls(path, manifest)

    @cached_property
    def schema(self) -> FeatureSchema:
        """The schema all ids in the store belong to."""
        return load_schema(self.path / SCHEMA)

    @cached_property
    def histories(self) -> Histories | None:
        """All events of every user; None where there is no user column."""
        path = self.path / HISTORIES
        return Histories(path) if path.is_dir() else None

    @property
    def users_file(self) -> Path:
        """Parquet file with the raw id of every history row."""
        return self.path / USERS

    def read_users(self) -> pl.Series:
        """Raw id of every history row."""
        return pl.read_parquet(self.users_file, glob=False)["user"]

    def names_of(self, users: NDArray[np.int64]) -> pl.Series:
        """Raw ids of some history rows; no others are read than from the first to the last."""
        first, last = (int(users.min()), int(users.max())) if len(users) else (0, -1)
        names = pl.scan_parquet(self.users_file, glob=False).slice(first, last - first + 1)
        return names.collect()["user"].gather(users - first)

    def histories_of(self, sequence: Sequence) -> Histories:
        """The events of every user that a sequence may contain."""
        if sequence.where:
            return Histories(filtered_path(self.path, sequence.name))
        assert self.histories is not None, "sequences need a user column"
        return self.histories

    def example_files(self, split: str) -> list[Path]:
        """Parquet files of a split, in order; none where the split is empty."""
        return sorted((self.path / EXAMPLES / split).glob("part-*.parquet"))


_MEND = "delete it, and it is built again"


def prepare(
    feature_set: FeatureSet,
    data_dir: Path,
    store_root: Path,
    *,
    max_memory_bytes: int = 4 << 30,
    schema: FeatureSchema | None = None,
) -> EncodedStore:
    """Find the store of a feature set and its data, or build it.

    Any number of processes may call this at once: one builds, the others wait for it.

    Args:
        feature_set: What to encode.
        data_dir: Directory of the raw files.
        store_root: Directory of all stores.
        max_memory_bytes: Memory that building may use for rows; larger data is cut by user.
        schema: What to encode with, of this feature set. None: it is fitted to the data.

    Raises:
        DataError: the data does not fit the feature set.
    """
    data_fingerprint = fingerprint_files(
        source_files(feature_set, data_dir), cache=store_root / "fingerprints.json"
    )
    path = _path(store_root, feature_set, data_fingerprint, schema=schema)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                return EncodedStore.open(path)
            except DataError as error:
                _log.warning("the store is built again: %s", error)
                shutil.rmtree(path)
        started = time.monotonic()
        unfinished = path.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            used, rows = build(
                feature_set,
                data_dir,
                unfinished,
                max_memory_bytes=max_memory_bytes,
                schema=schema,
            )
            write_manifest(unfinished, used, rows=rows, data_fingerprint=data_fingerprint)
            os.replace(unfinished, path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        _log.info("built %s in %.1f s: %s examples", path, time.monotonic() - started, rows)
    return EncodedStore.open(path)


def schema_without_building(
    feature_set: FeatureSet, data_dir: Path, store_root: Path
) -> tuple[FeatureSchema, str]:
    """The schema of a feature set and its data, and in words where it was found.

    Args:
        feature_set: What would be encoded.
        data_dir: Directory of the raw files; where they are not, the newest store of the same
            features counts.
        store_root: Directory of all stores.

    Raises:
        DataError: there is neither raw data nor a store, or the data does not fit.
    """
    try:
        files = source_files(feature_set, data_dir)
    except DataError as error:
        if (path := _newest_store(feature_set, store_root)) is None:
            raise DataError(
                f"{mistake}; nor is it encoded already below {store_root}"
                for mistake in error.mistakes
            ) from None
        return load_schema(path / SCHEMA), f"of {path}, since the data is not here"
    data_fingerprint = fingerprint_files(files, cache=store_root / "fingerprints.json")
    path = _path(store_root, feature_set, data_fingerprint, schema=None)
    if (path / MANIFEST).is_file():
        return load_schema(path / SCHEMA), f"of {path}"
    return fit_file(feature_set, data_dir), f"fitted to {data_dir}"


def _path(
    root: Path, feature_set: FeatureSet, data_fingerprint: str, *, schema: FeatureSchema | None
) -> Path:
    identity = f"{FORMAT_VERSION}|{_of_rows(feature_set)}|{data_fingerprint}"
    if schema is not None:
        identity += f"|{schema.fingerprint()}"
    return root / xxhash.xxh3_64_hexdigest(identity.encode())


def _newest_store(feature_set: FeatureSet, root: Path) -> Path | None:
    manifests = sorted(root.glob(f"*/{MANIFEST}"), key=lambda m: m.stat().st_mtime, reverse=True)
    wanted = _of_rows(feature_set)
    for manifest in manifests:
        try:
            schema = load_schema(manifest.parent / SCHEMA)
        except SchemaMismatchError:  # a damaged one, or of another version, that nobody asked for
            continue
        if _of_rows(schema.feature_set) == wanted:
            return manifest.parent
    return None


def _of_rows(feature_set: FeatureSet) -> str:
    """What encoded rows follow from: all but how ids are stored, looked up and pooled."""
    of_tables = {"table", "dim", "probes", "pooling"}
    return feature_set.model_dump_json(
        exclude={"tables": True, "defaults": True, "features": {"__all__": of_tables}}
    )


def write_manifest(
    path: Path, schema: FeatureSchema, *, rows: dict[str, int], data_fingerprint: str
) -> EncodedStore:
    """Complete a store whose rows are written.

    Args:
        path: The store.
        schema: What its rows are encoded with.
        rows: Examples by split.
        data_fingerprint: Of the raw files.
    """
    save_schema(schema, path / SCHEMA)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        schema_fingerprint=schema.fingerprint(),
        data_fingerprint=data_fingerprint,
        rows=rows,
        labels=list(schema.feature_set.labels),
        dense=[f.name for f in dense_features(schema.feature_set)],
        file_bytes=file_bytes(path),
    )
    (path / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))
    return EncodedStore(path, manifest)


def file_bytes(path: Path) -> dict[str, int]:
    """Size of every file below a store, but for the manifest."""
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.name != MANIFEST)
    return {f.relative_to(path).as_posix(): f.stat().st_size for f in files}
