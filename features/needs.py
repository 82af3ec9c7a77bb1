"""Which raw columns a feature set reads, and what for."""

from __future__ import annotations

from dataclasses import dataclass

from features.spec import ColumnFeature, FeatureSet, Sequence
from features.split_spec import ColumnSplit
from features.sql import columns_of


@dataclass(frozen=True)
class Need:
    """A raw column that something reads.

    Attributes:
        column: Its name.
        where: Who reads it, as in messages.
        is_key: It joins an attribute table.
    """

    column: str
    where: str
    is_key: bool = False


def needs(feature_set: FeatureSet, *, with_labels: bool) -> list[Need]:
    """Everything that is read, in file order.

    Args:
        feature_set: Who reads.
        with_labels: Also what only training and evaluation read: labels, weight, split column.
    """
    result: list[Need] = []

    def add(where: str, *columns: str, is_key: bool = False) -> None:
        result.extend(Need(column, where, is_key) for column in columns)

    for name, source in feature_set.attributes.items():
        add(f"sources.{name}.on", source.on, is_key=True)
    if feature_set.events.where is not None:
        add("sources.events.where", *columns_of(feature_set.events.where))
    for role, column in feature_set.entity.columns.items():
        add(f"entity.{role}", column)
    if with_labels:
        for label in feature_set.label:
            columns = columns_of(label.expr) if label.expr else (label.name,)
            add(f"label.{label.name}", *columns, *(columns_of(label.where) if label.where else ()))
        if feature_set.weight is not None:
            add("weight", *columns_of(feature_set.weight))
        if isinstance(feature_set.split, ColumnSplit):
            add("split.column", feature_set.split.column)
    for feature in feature_set.features:
        if isinstance(feature, ColumnFeature):
            columns = columns_of(feature.expr) if feature.expr else (feature.source_column,)
            add(f"features.{feature.name}", *columns)
        elif isinstance(feature, Sequence):
            for key, text in (("where", feature.where), ("times", feature.times)):
                add(f"features.{feature.name}.{key}", *(columns_of(text) if text else ()))
    return result
