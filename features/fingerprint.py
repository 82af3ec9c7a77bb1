"""A digest that changes exactly when some column is encoded otherwise.

What counts: names, sources of values, joins, filters, encodings, fitted contents, sequences, and
`renamed_from`, since hashed tables find rows by it. What does not: tables, widths, pooling, labels,
split, paths, order of features, and choices (such as `min_count`) that left the fitted contents as
they were.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import polars as pl

from features.spec import (
    Bucketized,
    Categorical,
    ColumnFeature,
    Dense,
    HashEncoding,
    IdentityEncoding,
    Sequence,
    Vector,
)

if TYPE_CHECKING:
    from features.schema import FeatureSchema, Vocabulary


def fingerprint(schema: FeatureSchema) -> str:
    """Sixteen hexadecimal digits."""
    feature_set = schema.feature_set
    events = feature_set.events
    content = {
        "entity": feature_set.entity.model_dump(),
        "where": events.where,
        "file_column": events.file_column,
        "joined_on": sorted({source.on for source in feature_set.attributes.values()}),
        "features": {feature.name: _feature(schema, feature) for feature in feature_set.features},
    }
    return _digest(json.dumps(content, sort_keys=True, ensure_ascii=True).encode())


def fingerprint_ids(schema: FeatureSchema, table: str) -> str:
    """Sixteen hexadecimal digits that change where ids of a table mean other values.

    Args:
        schema: Fitted.
        table: A logical table.
    """
    feature_set = schema.feature_set
    readers = [f for f in feature_set.embedded if feature_set.table_of(f.name) == table]
    content = {reader.name: _feature(schema, reader) for reader in readers}
    return _digest(json.dumps(content, sort_keys=True, ensure_ascii=True).encode())


def _feature(schema: FeatureSchema, feature: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"kind": feature.kind}
    if feature.renamed_from is not None:
        content["renamed_from"] = feature.renamed_from
    if isinstance(feature, ColumnFeature):
        content["from"] = {"expr": feature.expr} if feature.expr else feature.source_column
    match feature:
        case Categorical():
            content |= {"split": feature.split, "fill": feature.fill}
            content["several"] = schema.is_multi_valued(feature.name)
            match schema.encoding_of(feature.name):
                case HashEncoding() | IdentityEncoding() as encoding:
                    content["encoding"] = encoding.model_dump()
                case _:
                    content["vocabulary"] = vocabulary_digest(schema.vocabulary_of(feature.name))
        case Bucketized():
            content |= {"boundaries": schema.boundaries[feature.name], "fill": feature.fill}
        case Dense():
            moments = schema.moments[feature.name]
            content |= feature.model_dump(include={"transform", "clip", "standardize", "fill"})
            content["moments"] = [moments.mean, moments.std] if feature.standardize else None
            content["raw_mean"] = moments.raw_mean if feature.fill == "mean" else None
        case Vector():
            content["size"] = feature.size
        case Sequence():
            content |= {
                "of": feature.columns,
                "max_length": feature.max_length,
                "where": feature.where,
            }
            if feature.times is not None:
                content["times"] = feature.times
    return content


def vocabulary_digest(vocabulary: Vocabulary) -> str:
    """Digest of the values in their order, with their type; counts do not matter."""
    values = vocabulary.values
    hasher = hashlib.sha256(str(values.dtype).encode())
    for chunk in values.cast(pl.String).to_frame("value").iter_slices(1 << 16):
        lines = chunk.select(
            pl.col("value").str.len_bytes().cast(pl.String) + ":" + pl.col("value")
        )
        hasher.update("".join(lines.to_series().to_list()).encode())
    return hasher.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
