"""What a changed line of a feature file means beside its ids: names, widths, numbers, settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from features.edits.changes import Change, Note
from features.edits.meaning import has_other_source, source_of
from features.edits.sides import Side
from features.spec import (
    Bucketized,
    Categorical,
    Dense,
    EmbeddedFeature,
    FeatureSet,
    Sequence,
    Vector,
)
from features.table_spec import UnifiedTable, stored_tables

OTHER_NUMBERS = "the model sees other numbers"


def line_notes(old: Side, new: Side, *, was: str, name: str) -> Iterator[Note]:
    """What becomes of a feature, apart from its ids and rows.

    Args:
        old: The feature file before.
        new: The feature file now.
        was: Name in the old file.
        name: Name in the new one.
    """
    before, after = old.feature_set.feature(was), new.feature_set.feature(name)
    if was != name:
        yield "renamed", f"was {was}{_column_too(before, after)}"
    if before.first_name != after.first_name and before.first_name != name:
        yield (
            "changed",
            f"hashes go by {after.first_name}; write `renamed_from: {before.first_name}`",
        )
    if before.kind != after.kind:
        # Of a feature that looks up rows before and after, its ids say so.
        if not all(isinstance(feature, EmbeddedFeature) for feature in (before, after)):
            yield "reset", f"its kind was {before.kind}, is {after.kind}"
        return
    match after:
        case Categorical() | Bucketized():
            yield from _differing(before, after, ("fill", "pooling"))
            yield from _owner(old, new, was=was, name=name)
            yield from _several(old, new, was=was, name=name)
            yield from _probes(old, new, was=was, name=name)
        case Dense():
            yield from _source(before, after)
            yield from _differing(before, after, ("fill", "transform", "clip", "standardize"))
            yield from _moments(old, new, was=was, name=name)
        case Vector():
            yield from _source(before, after)
            if before.size != after.size:
                fate = "widened" if after.size > before.size else "narrowed"
                yield fate, f"{before.size} numbers, now {after.size}: the leading ones are kept"
        case Sequence():
            yield from _sequence(old, new, was=was, name=name)


def setting_changes(
    old: FeatureSet, new: FeatureSet, *, names: Mapping[str, str]
) -> Iterator[Change]:
    """Settings that changed; `kept` says that a checkpoint fits nevertheless.

    Args:
        old: The feature file before.
        new: The feature file now.
        names: Old names of features by new ones.
    """
    if old.entity != new.entity:
        yield _setting("entity", "changed", _was(old.entity, new.entity))
    if old.events.where != new.events.where:
        yield _setting("events.where", "changed", _was(old.events.where, new.events.where))
    if old.events.file_column != new.events.file_column:
        words = _was(old.events.file_column, new.events.file_column)
        yield _setting("events.file_column", "changed", words)
    keys = [sorted({s.on for s in side.attributes.values()}) for side in (old, new)]
    if keys[0] != keys[1]:
        yield _setting("sources", "changed", f"joined on {keys[0]}, now on {keys[1]}")
    elif old.sources != new.sources:
        yield _setting("sources", "kept", "other files")
    if old.labels != new.labels:
        then = "the outputs of the model follow"
        if set(old.labels).isdisjoint(new.labels):
            then = "the outputs of a ranker begin anew, for which migrate needs `--reset dense`"
        words = f"{_was(list(old.labels), list(new.labels))}; {then}"
        yield _setting("label", "changed", words)
    elif old.label != new.label:
        yield _setting("label", "kept", "the model learns another target")
    if old.weight != new.weight:
        yield _setting("weight", "kept", _was(old.weight, new.weight))
    if old.split != new.split:
        yield _setting("split", "kept", "other events train")
    orders = (
        [f.name for f in old.features if f.name in names.values()],
        [names[f.name] for f in new.features if f.name in names],
    )
    if orders[0] != orders[1]:
        yield _setting("features", "moved", "they are in another order; what reads them follows")


def _setting(name: str, fate: Any, words: str) -> Change:
    return Change("setting", name, name, fate, (words,))


def _was(before: Any, after: Any) -> str:
    return f"was {_text(before)}, is {_text(after)}"


def _text(value: Any) -> str:
    return "none" if value is None else f"{value}"


def _column_too(before: Any, after: Any) -> str:
    """What is to be said where the column of a renamed feature is not renamed as it is."""
    columns = tuple(getattr(feature, "source_column", None) for feature in (before, after))
    if columns[0] == columns[1] or columns == (before.name, after.name):
        return ""
    return f", its column {_was(*columns)}"


def _differing(before: Any, after: Any, keys: tuple[str, ...]) -> Iterator[Note]:
    for key in keys:
        was, now = getattr(before, key, None), getattr(after, key, None)
        if was != now:
            yield "changed", f"{key} {_was(was, now)}: {OTHER_NUMBERS}"


def _source(before: Any, after: Any) -> Iterator[Note]:
    if has_other_source(before, after):
        words = f"came from {source_of(before)}, comes from {source_of(after)}: {OTHER_NUMBERS}"
        yield "changed", words


def _owner(old: Side, new: Side, *, was: str, name: str) -> Iterator[Note]:
    owners = old.owner(was), new.owner(name)
    is_like = owners[0] != was, owners[1] != name
    if is_like != (False, False) and old.first_name(was) != new.first_name(name):
        likes = [owner if has else None for owner, has in zip(owners, is_like, strict=True)]
        yield "changed", f"like {_was(*likes)}: it has the rows of other ids"


def _several(old: Side, new: Side, *, was: str, name: str) -> Iterator[Note]:
    if old.schema is None or new.schema is None:
        return
    counts = old.schema.is_multi_valued(was), new.schema.is_multi_valued(name)
    if counts[0] != counts[1]:
        yield "changed", f"an event has {'several values' if counts[1] else 'one value'} now"


def _probes(old: Side, new: Side, *, was: str, name: str) -> Iterator[Note]:
    before, after = old.feature_set.feature(was).probes, new.feature_set.feature(name).probes
    is_unified = all(
        isinstance(stored, UnifiedTable)
        for side, feature in ((old, was), (new, name))
        for stored in stored_tables("", side.tables[side.feature_set.table_of(feature)]).values()
    )
    if not is_unified or before == after:
        return
    if after > before:
        yield "widened", f"{before} probes, now {after}: the leading ones are kept"
    else:
        yield "narrowed", f"{before} probes, now {after}: the leading ones are kept"


def _moments(old: Side, new: Side, *, was: str, name: str) -> Iterator[Note]:
    if old.schema is None or new.schema is None:
        return
    feature = new.feature_set.feature(name)
    before, after = old.schema.moments[was], new.schema.moments[name]
    is_other = (feature.standardize and (before.mean, before.std) != (after.mean, after.std)) or (
        feature.fill == "mean" and before.raw_mean != after.raw_mean
    )
    if is_other:
        yield "changed", f"mean or deviation are others: {OTHER_NUMBERS}"


def _sequence(old: Side, new: Side, *, was: str, name: str) -> Iterator[Note]:
    before, after = old.feature_set.feature(was), new.feature_set.feature(name)
    if after.max_length != before.max_length:
        fate = "grown" if after.max_length > before.max_length else "shrunk"
        words = f"{before.max_length} events, now {after.max_length}; places count from the end"
        yield fate, words
    first_names = [
        [side.feature_set.feature(n).first_name for n in feature.columns]
        for side, feature in ((old, before), (new, after))
    ]
    if first_names[0] != first_names[1]:
        yield (
            "changed",
            f"of {_was(list(before.columns), list(after.columns))}: what reads it follows",
        )
    yield from _differing(before, after, ("where", "times", "pooling"))
