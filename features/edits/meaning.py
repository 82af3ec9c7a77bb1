"""What of a feature's line decides what its ids and numbers mean."""

from __future__ import annotations

from collections.abc import Mapping

from features.checks import resolved_encoding
from features.spec import (
    Bucketized,
    Categorical,
    ColumnFeature,
    Dense,
    Feature,
    FeatureSet,
    HashEncoding,
    IdentityEncoding,
    VocabEncoding,
)
from features.table_spec import Table


def source_of(feature: ColumnFeature) -> str:
    """Where the raw values come from, in words."""
    return f"expr {feature.expr!r}" if feature.expr else f"column {feature.source_column!r}"


def has_other_source(old: ColumnFeature, new: ColumnFeature) -> bool:
    """Whether a feature comes from other raw values.

    A column that is called like its feature may be renamed with it.
    """
    if old.expr is not None or new.expr is not None:
        return old.expr != new.expr
    is_renamed = old.name != new.name
    follows = is_renamed and new.source_column == new.name
    return old.source_column != new.source_column and not follows


def owner_of(feature_set: FeatureSet, name: str) -> str:
    """The feature whose ids a feature has: itself, or the one it is like."""
    feature = feature_set.feature(name)
    return (feature.like if isinstance(feature, Categorical) else None) or name


def other_meaning(
    old: FeatureSet, new: FeatureSet, *, name: str, names: Mapping[str, str]
) -> tuple[str, ...]:
    """Why ids of a feature mean other things than before, in words; empty where they do not.

    Values of a vocabulary mean the same whatever ids they have. Ranges of a bucketized feature
    mean the same where its numbers do.

    Args:
        old: The feature file before.
        new: The feature file now.
        name: Of a feature that both have, in the new one.
        names: Old names by new ones, from `features.edits.renames.same_features`.
    """
    before, after = old.feature(names[name]), new.feature(name)
    if before.kind != after.kind:
        return (f"its kind was {before.kind}, is {after.kind}",)
    if not isinstance(after, Categorical | Bucketized):
        return ()
    reasons = []
    if has_other_source(before, after):
        reasons.append(f"it came from {source_of(before)}, comes from {source_of(after)}")
    if isinstance(after, Categorical):
        if before.split != after.split:
            reasons.append(f"split was {before.split!r}, is {after.split!r}")
        reasons += _other_encoding(resolved_encoding(old, before), resolved_encoding(new, after))
        if after.like is not None:
            reasons += _other_owner(old, new, was=names[name], owner=after.like, names=names)
    return tuple(reasons)


def is_fitted_alike(before: Feature, after: Feature) -> bool:
    """Whether what is fitted to data is asked for as before, `min_count` and `max_size` apart."""
    if before.kind != after.kind:
        return False
    match before, after:
        case (Categorical(), Categorical()):
            same = (before.split, before.fill) == (after.split, after.fill)
        case (Bucketized(), Bucketized()):
            same = (before.quantiles, before.fill) == (after.quantiles, after.fill)
        case (Dense(), Dense()):
            same = (before.transform, before.clip, before.fill) == (
                after.transform,
                after.clip,
                after.fill,
            )
        case _:
            return True
    return same and not has_other_source(before, after)


def is_stored_alike(before: Table, after: Table) -> bool:
    """Whether two tables are the same but for their names."""
    return before == after.model_copy(update={"renamed_from": before.renamed_from})


def is_stricter(before: VocabEncoding, after: VocabEncoding) -> bool:
    """Whether values may have to leave a vocabulary by `min_count` or `max_size`."""
    return after.min_count > before.min_count or has_less_room(before, after)


def has_less_room(before: VocabEncoding, after: VocabEncoding) -> bool:
    """Whether `max_size` holds fewer values."""
    return _size(after) < _size(before)


def is_looser(before: VocabEncoding, after: VocabEncoding) -> bool:
    """Whether `min_count` or `max_size` lets values in that were left out."""
    return after.min_count < before.min_count or _size(after) > _size(before)


def _size(encoding: VocabEncoding) -> float:
    return float("inf") if encoding.max_size is None else encoding.max_size


def _other_owner(
    old: FeatureSet, new: FeatureSet, *, was: str, owner: str, names: Mapping[str, str]
) -> list[str]:
    """Why the rows of the feature that another one is like are none that it had, or took up."""
    if owner not in names:
        return [f"it is like {owner!r}, which is new"]
    if owner_of(old, was) == was != owner_of(old, names[owner]):
        return [f"it is like {owner!r}, and has the rows of that in place of its own"]
    is_other = other_meaning(old, new, name=owner, names=names)
    return [f"ids of {owner!r}, which it is like, mean other values"] * bool(is_other)


def _other_encoding(before: object, after: object) -> list[str]:
    if type(before) is type(after) and not isinstance(after, HashEncoding):
        return []
    if before == after:
        return []
    return [f"encoding was {_in_words(before)}, is {_in_words(after)}"]


def _in_words(encoding: object) -> str:
    match encoding:
        case HashEncoding(size=None):
            return "hash"
        case HashEncoding(size=size):
            return f"hash of size {size}"
        case IdentityEncoding():
            return "identity"
        case _:
            return "vocab"
