"""What users did before: built once from the whole log, on disk, in bounded memory.

<path>/ as an `EncodedStore` without examples
       rows/_user.npy, _position.npy, ...   of every row of the log: whose it is, and how many
                                            events of the user come before it
       counts.json                          of the events, for the summary
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from features import columns
from features.columns import keep_column, time_column
from features.schema import FeatureSchema
from features.spec import FeatureSet, Sequence
from features.values import timed_sequences
from recsys.data.building import narrow
from recsys.data.layout import item_feature, position_column
from recsys.data.partitions import EncodedEvents, parts_by_user
from recsys.data.store import EncodedStore, write_manifest
from recsys.scoring.counts import Counts, added_up, count_features
from recsys.scoring.reading import EventReader, Events
from recsys.scoring.whole import make_folder

_EVENTS, _ROWS, _COUNTS = "events", "rows", "counts.json"
_MAX_MEMORY_BYTES = 512 << 20
_SPLITS = pl.Enum(["train", "test"])  # of a byte, where a text takes sixteen


def reads_histories(feature_set: FeatureSet) -> bool:
    """Whether a row's score depends on what its user did before."""
    return bool(feature_set.of_kind(Sequence))


def histories_path(work: Path, *, rejects: bool) -> Path:
    """Their folder, below what an output has unfinished.

    Args:
        work: What it has.
        rejects: Whether rows that cannot be scored are left out of them, or an error.
    """
    return work / ("histories_of_scored" if rejects else "histories")


class LogHistories:
    """Histories of the log, and the place of each row in its own.

    Args:
        path: What `build_histories` made.

    Attributes:
        store: The histories.
    """

    def __init__(self, path: Path) -> None:
        self.store = EncodedStore.open(path)
        self._rows: dict[str, NDArray[np.uint32]] = {
            file.stem: np.load(file, mmap_mode="r") for file in sorted((path / _ROWS).glob("*.npy"))
        }

    def places(self, rows: pl.Series) -> list[pl.Series]:
        """User and positions of events.

        Args:
            rows: Their places in the log.
        """
        index = rows.to_numpy()
        return [pl.Series(name, values[index]) for name, values in self._rows.items()]

    def read_counts(self) -> Counts:
        """Of all events."""
        return Counts.from_content(json.loads((self.store.path / _COUNTS).read_text()))


def build_histories(
    reader: EventReader, path: Path, *, num_rows: int, reject: bool
) -> Iterator[tuple[Events, pl.DataFrame]]:
    """Make the folder; it appears under its name when it is complete.

    Gives each part of the log as it has been read, with what was rejected of it.

    Args:
        reader: Of the log.
        path: Folder to make.
        num_rows: Of the log.
        reject: Whether rows that cannot be scored are left out of histories, or an error.

    Raises:
        DataError: the data is not what the bundle expects.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    make_folder(unfinished / _EVENTS)
    counts = []
    wanted = _columns(reader.schema)
    ids = list(narrow(reader.schema))
    for part in range(reader.num_parts):
        raw = reader.read(part)
        events, rejects = reader.checked(raw, reject=reject)
        encoded = reader.encode(events)
        of_part = Counts(
            read=raw.num_read,
            left_out=raw.num_read - len(raw.frame),
            rejected=len(rejects),
            features=count_features(reader.schema, events.frame, encoded),
        )
        counts.append(of_part)
        in_test = pl.lit("test", dtype=_SPLITS).alias(columns.SPLIT)
        encoded.with_columns(ids).select(*wanted, in_test).write_parquet(
            unfinished / _EVENTS / f"{part:08d}.parquet", compression="lz4"
        )
        yield events, rejects
    _write_rows(reader.schema, unfinished, num_rows=num_rows)
    shutil.rmtree(unfinished / _EVENTS)
    (unfinished / _COUNTS).write_text(json.dumps(added_up(counts).to_content()))
    write_manifest(unfinished, reader.schema, rows={}, data_fingerprint="")
    unfinished.rename(path)


def _write_rows(schema: FeatureSchema, path: Path, *, num_rows: int) -> None:
    """Histories of all users, and the place of each row in them."""
    files = sorted((path / _EVENTS).iterdir())
    events = EncodedEvents(schema, pl.scan_parquet(files, glob=False))
    filtered = [s for s in schema.feature_set.of_kind(Sequence) if s.where]
    names = [columns.USER, columns.POSITION, *(position_column(s) for s in filtered)]
    (path / _ROWS).mkdir()
    rows = {
        name: open_memmap(
            path / _ROWS / f"{name}.npy", mode="w+", dtype=np.uint32, shape=(num_rows,)
        )
        for name in names
    }
    num_parts = events.num_parts(max_memory_bytes=_MAX_MEMORY_BYTES)
    for part in parts_by_user(events, path, num_parts=num_parts):
        index = part[columns.ROW].to_numpy()
        for name, array in rows.items():
            array[index] = part[name].to_numpy()
    for array in rows.values():
        array.flush()


def _columns(schema: FeatureSchema) -> list[str]:
    """What `parts_by_user` reads."""
    feature_set = schema.feature_set
    sequences = feature_set.of_kind(Sequence)
    item = item_feature(feature_set)
    roles = ["user", "time"] if feature_set.entity.time is not None else ["user"]
    names = [columns.ROW, *(columns.entity_column(role) for role in roles)]
    names += [name for s in sequences for name in s.columns] + ([item.name] if item else [])
    names += [keep_column(s.name) for s in sequences if s.where]
    names += [time_column(s.name) for s in timed_sequences(feature_set)]
    return list(dict.fromkeys(names))
