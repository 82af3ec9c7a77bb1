"""The items of a catalogue by their raw ids."""

from __future__ import annotations

import polars as pl

from features.schema import FeatureSchema
from recsys.data.item_sequence import ItemSequence


def item_names(schema: FeatureSchema) -> pl.Series:
    """Raw id of every item of a catalogue, from id 1 on, by the name of the item feature.

    Args:
        schema: With one sequence of items.
    """
    item = ItemSequence.of(schema.feature_set).item
    num_items = schema.num_ids(item)
    assert num_items is not None, "an item catalogue is bounded"
    return schema.decode(item, pl.Series(range(1, num_items), dtype=pl.Int64)).alias(item)
