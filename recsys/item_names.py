"""The items of a catalogue by their raw ids."""

from __future__ import annotations

import polars as pl

from features.errors import RunConfigError
from features.schema import FeatureSchema
from features.spec import HashEncoding
from recsys.data.item_sequence import ItemSequence


def check_item_names(schema: FeatureSchema, *, where: str = "") -> None:
    """Check that items can be named.

    Args:
        schema: With one sequence of items.
        where: What messages begin with.

    Raises:
        RunConfigError: items have no names.
    """
    item = ItemSequence.of(schema.feature_set).item
    if isinstance(schema.encoding_of(item), HashEncoding):
        raise RunConfigError(
            f"{where}features.{item}: items of a hashed encoding cannot be named, got hash; "
            f"allowed vocab, identity; train again with one of these"
        )


def item_names(schema: FeatureSchema, *, where: str = "") -> pl.Series:
    """Raw id of every item of a catalogue, from id 1 on, by the name of the item feature.

    Args:
        schema: With one sequence of items.
        where: What messages begin with.

    Raises:
        RunConfigError: items have no names.
    """
    check_item_names(schema, where=where)
    item = ItemSequence.of(schema.feature_set).item
    num_items = schema.num_ids(item)
    assert num_items is not None, "an item catalogue is bounded"
    return schema.decode(item, pl.Series(range(1, num_items), dtype=pl.Int64)).alias(item)
