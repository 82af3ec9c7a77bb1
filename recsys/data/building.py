"""Builds the files of a store from raw data, in bounded memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from features.encode import encode
from features.fit import check_events, fit_schema
from features.schema import FeatureSchema
from features.sources import scan_events
from features.spec import FeatureSet
from features.split import assign_split
from recsys.data.examples import ExampleWriter
from recsys.data.layout import id_dtype
from recsys.data.partitions import EncodedEvents, parts_by_row, parts_by_user

_EVENTS = "events.parquet"

_log = logging.getLogger(__name__)


def build(
    feature_set: FeatureSet,
    data_dir: Path,
    path: Path,
    *,
    max_memory_bytes: int,
    schema: FeatureSchema | None = None,
) -> tuple[FeatureSchema, dict[str, int]]:
    """Fit, encode and write everything but the manifest.

    Args:
        feature_set: What to encode.
        data_dir: Directory of the raw files.
        path: Empty directory to fill.
        max_memory_bytes: Memory for rows at any one time.
        schema: What to encode with. None: it is fitted to the data.

    Returns:
        The schema, and the number of examples of each split.

    Raises:
        DataError: the data does not fit the feature set.
    """
    started = time.monotonic()
    raw = assign_split(feature_set, scan_events(feature_set, data_dir))
    if schema is None:
        schema = fit_schema(feature_set, raw)
        _log.info("fitted the schema in %.1f s", time.monotonic() - started)
    else:
        check_events(feature_set, raw)
    encoded = encode(schema, raw, with_labels=True)
    return schema, write_rows(schema, encoded, path, max_memory_bytes=max_memory_bytes)


def write_rows(
    schema: FeatureSchema, encoded: pl.LazyFrame, path: Path, *, max_memory_bytes: int
) -> dict[str, int]:
    """Write histories and examples.

    Args:
        schema: What the events are encoded with.
        encoded: Events as `features.encode` gives them, with labels, weight and split.
        path: Directory to fill.
        max_memory_bytes: Memory for rows at any one time.

    Returns:
        The number of examples of each split.
    """
    started = time.monotonic()
    encoded.with_columns(narrow(schema)).sink_parquet(path / _EVENTS)
    events = EncodedEvents(schema, pl.scan_parquet(path / _EVENTS, glob=False))
    _log.info("encoded the events in %.1f s", time.monotonic() - started)
    writer = ExampleWriter(schema, path)
    rows = writer.count(events.frame)
    for number, part in enumerate(_parts(events, path, max_memory_bytes=max_memory_bytes)):
        writer.write(part, number=number, rows=rows)
        _log.info("part %d: %d events after %.1f s", number, len(part), time.monotonic() - started)
    (path / _EVENTS).unlink()
    return rows


def _parts(events: EncodedEvents, path: Path, *, max_memory_bytes: int) -> Iterator[pl.DataFrame]:
    num_parts = events.num_parts(max_memory_bytes=max_memory_bytes)
    if events.schema.feature_set.entity.user is None:
        return parts_by_row(events, num_parts=num_parts)
    return parts_by_user(events, path, num_parts=num_parts)


def narrow(schema: FeatureSchema) -> Iterator[pl.Expr]:
    """Ids in the narrowest type that holds them."""
    for feature in schema.feature_set.embedded:
        dtype = id_dtype(schema, feature.name)
        wanted = pl.List(dtype) if schema.is_multi_valued(feature.name) else dtype
        yield pl.col(feature.name).cast(wanted)
