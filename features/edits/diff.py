"""What becomes of everything when one feature file takes the place of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from features.edits.changes import Change, Difference, Note, gravest, in_words
from features.edits.continuing import continue_schema, needing_data
from features.edits.id_changes import IdChanges, id_changes
from features.edits.line_changes import line_notes, setting_changes
from features.edits.renames import same_features, same_named_tables
from features.edits.sides import Side
from features.edits.table_changes import TableChanges, table_changes
from features.errors import FeatureConfigError, did_you_mean
from features.schema import FeatureSchema
from features.spec import EmbeddedFeature, FeatureSet, Sequence


def compare(old: FeatureSet | FeatureSchema, new: FeatureSet | FeatureSchema) -> Difference:
    """What becomes of every feature and table, of settings that changed, and why.

    Two schemas are compared value by value. A schema and a file are, where the file needs no data
    that the schema does not have; else, as two files, without data: vocabularies are then taken
    for unchanged where their rules are, and what follows the data says so.

    Args:
        old: What a model was trained under.
        new: What it is to go on with.

    Raises:
        FeatureConfigError: `renamed_from` names nothing of the old file, while a feature or table
            of it would be dropped.
    """
    before, after = _sides(old, new)
    names = same_features(before.feature_set, after.feature_set)
    tables = _same_tables(before, after, names=names)
    mistakes = [*_unknown_first_names(before, after, names=names, tables=tables)]
    if mistakes:
        raise FeatureConfigError(mistakes)
    ids = {
        feature.name: id_changes(before, after, name=feature.name, names=names)
        for feature in after.feature_set.embedded
        if names.get(feature.name) in _embedded(before)
    }
    found = table_changes(before, after, names=names, tables=tables, ids=ids)
    return Difference(
        (
            *found.tables,
            *_features(before, after, names=names, ids=ids, found=found),
            *setting_changes(before.feature_set, after.feature_set, names=names),
        )
    )


def _sides(old: FeatureSet | FeatureSchema, new: FeatureSet | FeatureSchema) -> tuple[Side, Side]:
    """Both with schemas, or both without."""
    match old, new:
        case FeatureSchema(), FeatureSet() if not needing_data(old.feature_set, new):
            new = continue_schema(old, new, fitted=None)
        case _:
            pass
    if isinstance(old, FeatureSchema) and isinstance(new, FeatureSchema):
        return Side(old.feature_set, old), Side(new.feature_set, new)
    files = [x.feature_set if isinstance(x, FeatureSchema) else x for x in (old, new)]
    return Side(files[0], None), Side(files[1], None)


def _same_tables(old: Side, new: Side, *, names: Mapping[str, str]) -> dict[str, str]:
    """Old name of each table that both files have, by its new one.

    Tables of single features, which nobody names, go on with their feature. Then a table is the
    same as the only one that its features read, if they are all that goes on of that; at last by
    its name.
    """
    found = same_named_tables(old.feature_set, new.feature_set)
    for name in new.tables:
        was = names.get(name)
        if name not in new.feature_set.tables and was in old.tables and _is_own(old, was):
            found[name] = str(was)
    for name in new.tables:
        source = None if name in found else _only_source(old, new, name=name, names=names)
        if source is not None and source not in found.values():
            found[name] = source
    for name in new.tables:
        if name not in found and name in old.tables and name not in found.values():
            found[name] = name
    return found


def _is_own(side: Side, table: str | None) -> bool:
    """Whether nobody named the table."""
    return table not in side.feature_set.tables


def _embedded(side: Side) -> set[str]:
    return {feature.name for feature in side.feature_set.embedded}


def _only_source(old: Side, new: Side, *, name: str, names: Mapping[str, str]) -> str | None:
    """The old table of which all that goes on reads this new one, which reads no other."""
    was_embedded = {
        reader: names[reader]
        for reader in _embedded(new)
        if reader in names and names[reader] in _embedded(old)
    }
    sources = {
        old.feature_set.table_of(was_embedded[reader])
        for reader in new.readers(name)
        if reader in was_embedded
    }
    if len(sources) != 1:
        return None
    [source] = sources
    going_on = {reader for reader, was in was_embedded.items() if was in old.readers(source)}
    return source if going_on <= set(new.readers(name)) else None


def _unknown_first_names(
    old: Side, new: Side, *, names: Mapping[str, str], tables: Mapping[str, str]
) -> Iterator[str]:
    features = {f.name: f.renamed_from for f in new.feature_set.features}
    gone = [f.name for f in old.feature_set.features if f.name not in names.values()]
    yield from _unknown("features", features, known=names, gone=gone)
    named = {name: table.renamed_from for name, table in new.feature_set.tables.items()}
    gone = [name for name in old.feature_set.tables if name not in tables.values()]
    yield from _unknown("tables", named, known=tables, gone=gone)


def _unknown(
    kind: str, first_names: Mapping[str, str | None], *, known: Mapping[str, str], gone: list[str]
) -> Iterator[str]:
    for name, first_name in first_names.items():
        if first_name is not None and name not in known and gone:
            yield (
                f"{kind}.{name}.renamed_from: the old file has no such name, got {first_name!r}; "
                f"allowed are those that are gone: {', '.join(gone)}"
                f"{did_you_mean(first_name, gone)}; mend it, or drop it"
            )


def _features(
    old: Side,
    new: Side,
    *,
    names: Mapping[str, str],
    ids: Mapping[str, IdChanges],
    found: TableChanges,
) -> Iterator[Change]:
    """Features and sequences: those of the new file in its order, then dropped ones."""
    for feature in new.feature_set.features:
        what = "sequence" if isinstance(feature, Sequence) else "feature"
        was = names.get(feature.name)
        table = _table_of(new, feature.name)
        if was is None:
            reasons = () if feature.renamed_from is None else (_never_there(feature.renamed_from),)
            yield Change(what, feature.name, None, "new", reasons, table)
            continue
        notes: list[Note] = [
            *line_notes(old, new, was=was, name=feature.name),
            *(ids[feature.name].notes if feature.name in ids else ()),
            *found.of_features.get(feature.name, ()),
        ]
        yield Change(what, feature.name, was, gravest(notes), in_words(notes), table)
    for feature in old.feature_set.features:
        if feature.name not in names.values():
            what = "sequence" if isinstance(feature, Sequence) else "feature"
            table = _table_of(old, feature.name)
            yield Change(what, feature.name, feature.name, "dropped", (), table)


def _table_of(side: Side, feature: str) -> str | None:
    is_embedded = isinstance(side.feature_set.feature(feature), EmbeddedFeature)
    return side.feature_set.table_of(feature) if is_embedded else None


def _never_there(first_name: str) -> str:
    return f"renamed_from is {first_name!r}, which the old file does not have either"
