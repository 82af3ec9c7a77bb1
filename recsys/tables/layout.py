"""The widths a model is built for, from the schema and the schemes."""

from __future__ import annotations

from features.columns import sequence_column
from features.schema import FeatureSchema
from features.spec import Categorical, Dense, Sequence, Vector
from recsys.tables.embedder import Embedder
from recsys.types import FieldLayout


def field_layout(schema: FeatureSchema, embedder: Embedder) -> FieldLayout:
    """Names and widths of everything in `Embedded`, in its order."""
    feature_set = schema.feature_set
    pooled = {key for key, reader in embedder.readers.items() if reader.pooling != "none"}
    item = feature_set.entity.item
    max_lengths = {
        sequence_column(sequence.name, of): sequence.max_length
        for sequence in feature_set.of_kind(Sequence)
        for of in sequence.columns
    }
    is_catalogue = item in {f.name for f in feature_set.of_kind(Categorical)}
    return FieldLayout(
        fields={key: embedder.widths[key] for key in embedder.readers if key in pooled},
        sequences={key: embedder.widths[key] for key in embedder.readers if key not in pooled},
        max_lengths={
            k: max_lengths[r.column] for k, r in embedder.readers.items() if r.column in max_lengths
        },
        dense={
            feature.name: feature.size if isinstance(feature, Vector) else 1
            for feature in feature_set.of_kind(Dense, Vector)
        },
        labels=feature_set.labels,
        num_items=(schema.num_ids(item) or 0) if item and is_catalogue else 0,
    )
