"""Whether the parts of a feature file fit each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from features.columns import TAKEN_NAMES
from features.dense import transformed_number
from features.edits.renames import renaming_mistakes
from features.errors import did_you_mean
from features.sizes import parse_bytes
from features.spec import (
    AttributeSource,
    Bucketized,
    Categorical,
    ColumnFeature,
    Defaults,
    Dense,
    EmbeddedFeature,
    Entity,
    EventSource,
    HashEncoding,
    Label,
    Sequence,
    VocabEncoding,
)
from features.split_spec import ColumnSplit, LeaveOneOutSplit, RandomSplit, TemporalSplit
from features.sql import parse_sql
from features.table_spec import (
    CCETable,
    DeepLightTable,
    DPQTable,
    FullTable,
    MGQETable,
    PlannedTable,
    QuantizedTable,
    SizedTable,
    StagedTable,
    StoredTable,
    Table,
    UnifiedTable,
    stored_tables,
)
from features.times import utc_naive

YamlPath = tuple[str | int, ...]
Finding = tuple[YamlPath, str]
_KNOW_EVERY_ID = (
    FullTable
    | QuantizedTable
    | CCETable
    | DPQTable
    | MGQETable
    | DeepLightTable
    | StagedTable
    | PlannedTable
)
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Draft:
    """The valid pieces of a file, and of the others what references need.

    Attributes:
        sources: Event log and attribute tables.
        entity: None where it is wrong; so with `split`.
        labels: By place in the file.
        weight: SQL expression.
        split: How events are divided.
        defaults: Values for what is left open.
        tables: The valid ones.
        table_names: Of all named tables.
        features: The valid ones, each with its place in the file.
        entries: All features as they were written, each with its place in the file.
        is_whole: No piece is wrong in itself.
    """

    sources: dict[str, EventSource | AttributeSource]
    entity: Entity | None
    labels: dict[YamlPath, Label]
    weight: str | None
    split: Any
    defaults: Defaults
    tables: dict[str, Table]
    table_names: tuple[str, ...]
    features: tuple[tuple[YamlPath, Any], ...]
    entries: tuple[tuple[YamlPath, dict[str, Any]], ...]
    is_whole: bool

    @property
    def names(self) -> list[str]:
        """Names of all features."""
        return [str(entry["name"]) for _, entry in self.entries if "name" in entry]

    def feature(self, name: str) -> Any:
        """The valid feature of that name, or None."""
        return next((feature for _, feature in self.features if feature.name == name), None)


def find_contradictions(draft: Draft) -> Iterator[Finding]:
    """Yield the place and text of every mistake that a piece alone does not show."""
    yield from _names(draft)
    yield from _expressions(draft)
    yield from _tables(draft)
    yield from _references(draft)
    for path, feature in draft.features:
        if isinstance(feature, EmbeddedFeature):
            yield from _table_use(path, feature, draft)
        if isinstance(feature, Categorical):
            yield from _categorical(path, feature, draft)
        if isinstance(feature, Sequence):
            yield from _sequence(path, feature, draft)
        if isinstance(feature, Dense):
            yield from _dense(path, feature)
    yield from _split(draft)


def _names(draft: Draft) -> Iterator[Finding]:
    first: dict[str, YamlPath] = {}
    labels = [(path, label.name) for path, label in draft.labels.items()]
    features = [(path, e["name"]) for path, e in draft.entries if isinstance(e.get("name"), str)]
    for path, name in (*features, *labels):
        key = (*path, "name")
        if name in first:
            kind = str(first[name][0]).removesuffix("s")
            yield key, f"name taken by another {kind}, got {name!r}; names must differ"
        first.setdefault(name, path)
        yield from _name(key, name)
    yield from _renamed(draft)
    for kind in ("tables", "sources"):
        for name in draft.table_names if kind == "tables" else draft.sources:
            yield from _name((kind, name), name)


def _renamed(draft: Draft) -> Iterator[Finding]:
    features = {(*path, "renamed_from"): entry for path, entry in draft.entries}
    written = {k: (str(e.get("name")), e.get("renamed_from")) for k, e in features.items()}
    yield from renaming_mistakes(written, kind="feature", names=draft.names)
    tables: dict[YamlPath, tuple[str, Any]] = {
        ("tables", n, "renamed_from"): (n, t.renamed_from) for n, t in draft.tables.items()
    }
    yield from renaming_mistakes(tables, kind="table", names=draft.table_names)


def _name(path: YamlPath, name: str) -> Iterator[Finding]:
    if name.startswith("_"):
        yield path, f"names that start with _ are reserved, got {name!r}; choose another"
    elif name in TAKEN_NAMES and path[0] != "sources":
        yield (
            path,
            f"name that torch needs for itself, got {name!r}; choose another, such as "
            f"{name + '_id'!r} (with `column: {name}` for the raw name)",
        )
    elif not NAME.fullmatch(name):
        yield (
            path,
            (
                f"no valid name, got {name!r}; allowed are a letter, then letters, digits "
                f"and _ (use `column` for the raw name)"
            ),
        )


def _expressions(draft: Draft) -> Iterator[Finding]:
    texts: list[tuple[YamlPath, str | None]] = [(("weight",), draft.weight)]
    for name, source in draft.sources.items():
        if isinstance(source, EventSource):
            texts.append((("sources", name, "where"), source.where))
    for path, label in draft.labels.items():
        texts += [((*path, "expr"), label.expr), ((*path, "where"), label.where)]
    for path, feature in draft.features:
        if isinstance(feature, ColumnFeature):
            texts.append(((*path, "expr"), feature.expr))
        if isinstance(feature, Sequence):
            texts += [((*path, "where"), feature.where), ((*path, "times"), feature.times)]
    for path, text in texts:
        if text is not None:
            try:
                parse_sql(text)
            except ValueError as error:
                yield path, str(error)


def _tables(draft: Draft) -> Iterator[Finding]:
    for name, table in draft.tables.items():
        for stored_name, stored in stored_tables(name, table).items():
            if isinstance(stored, SizedTable) and stored.budget is not None:
                try:
                    parse_bytes(stored.budget)
                except ValueError as error:
                    yield ("tables", *stored_name.split("@"), "budget"), str(error)
    read = [entry.get("table") for _, entry in draft.entries]
    for name in draft.table_names:
        if name not in read and draft.is_whole:
            yield ("tables", name), "no feature reads this table; drop it or name it in a feature"


def _references(draft: Draft) -> Iterator[Finding]:
    """Names of what does not exist, also in features that are wrong otherwise."""
    for path, entry in draft.entries:
        table, like, of = entry.get("table"), entry.get("like"), entry.get("of", ())
        if isinstance(table, str):
            yield from _reference((*path, "table"), table, "table", list(draft.table_names))
        others = list(dict.fromkeys(draft.names))
        if isinstance(like, str):
            yield from _reference((*path, "like"), like, "feature", others)
        for name in of if isinstance(of, tuple) else (of,):
            if isinstance(name, str):
                yield from _reference((*path, "of"), name, "feature", others)


def _reference(path: YamlPath, name: str, kind: str, known: list[str]) -> Iterator[Finding]:
    if name not in known:
        allowed = ", ".join(known) or f"none, as there is no {kind} to name; add it"
        yield path, f"unknown {kind}, got {name!r}; allowed {allowed}{did_you_mean(name, known)}"


def _table_use(path: YamlPath, feature: EmbeddedFeature, draft: Draft) -> Iterator[Finding]:
    stored = _stored(feature, draft)
    is_like = isinstance(feature, Categorical) and feature.like is not None
    if feature.table is not None and feature.dim is not None:
        yield (*path, "dim"), f"not together with table; set it in tables.{feature.table}.dim"
    if feature.table is None and not is_like and feature.name in draft.table_names:
        yield (
            path,
            (
                f"its own table would be called like tables.{feature.name}; "
                f"add `table: {feature.name}` or rename the table"
            ),
        )
    if (
        feature.probes > 1
        and not all(isinstance(table, UnifiedTable) for table in stored or [None])
        and (feature.table is None or stored)
    ):
        yield (
            (*path, "probes"),
            (
                f"several probes need a unified table, got {feature.probes}; "
                f"drop it or read a table of scheme unified"
            ),
        )
    has_counts = isinstance(feature, Categorical) and isinstance(feature.encoding, VocabEncoding)
    if any(isinstance(table, MGQETable) for table in stored) and not has_counts:
        yield (
            (*path, "table"),
            (
                f"a mgqe table tells frequent ids from rare ones, got a feature without a "
                f"vocabulary for {feature.table!r}; set `encoding: vocab`, or read a table of "
                f"scheme dpq"
            ),
        )


def _stored(feature: EmbeddedFeature, draft: Draft) -> list[StoredTable]:
    """What a feature reads, where it names a valid table."""
    table = draft.tables.get(feature.table or "")
    return [] if table is None else list(stored_tables("", table).values())


def _categorical(path: YamlPath, feature: Categorical, draft: Draft) -> Iterator[Finding]:
    if feature.split == "":
        yield (*path, "split"), "must be one character or more, got ''"
    with_a_row_per_id = [
        table.scheme for table in _stored(feature, draft) if isinstance(table, _KNOW_EVERY_ID)
    ]
    is_full = bool(with_a_row_per_id) or (feature.table is None and feature.like is None)
    if isinstance(feature.encoding, HashEncoding) and feature.encoding.size is None and is_full:
        yield (
            (*path, "encoding", "size"),
            (
                f"missing, and a {[*with_a_row_per_id, 'full'][0]} table has a row per id; add a "
                "size, or read a table of scheme hash or unified"
            ),
        )
    if feature.like is None:
        return
    for key in ("table", "dim", "encoding"):
        if key in feature.model_fields_set:
            yield (*path, key), f"not together with like; {feature.like!r} says it"
    target = draft.feature(feature.like)
    if target is not None and not isinstance(target, Categorical):
        yield (
            (*path, "like"),
            (f"must name a categorical feature, got {feature.like!r}, which is {target.kind}"),
        )
    elif isinstance(target, Categorical) and target.like is not None:
        yield (
            (*path, "like"),
            (
                f"must name a feature that is not itself like another, "
                f"got {feature.like!r}, which is like {target.like!r}"
            ),
        )


def _sequence(path: YamlPath, feature: Sequence, draft: Draft) -> Iterator[Finding]:
    if draft.entity is not None:
        for role in ("user", "time"):
            if getattr(draft.entity, role) is None:
                yield path, f"a sequence needs entity.{role}; add it under `entity`"
    if len(set(feature.columns)) < len(feature.columns) or not feature.columns:
        yield (*path, "of"), f"must name different features, got {list(feature.columns)}"
    for of in feature.columns:
        target = draft.feature(of)
        if target is not None and not isinstance(target, Categorical | Bucketized):
            yield (
                (*path, "of"),
                (
                    f"must name categorical or bucketized features, got {of!r}, "
                    f"which is {target.kind}"
                ),
            )
        elif isinstance(target, Categorical) and target.split is not None and _is_item(of, draft):
            yield (*path, "of"), f"an event has one item, got {of!r}, which has a split; drop it"


def _is_item(feature: str, draft: Draft) -> bool:
    return draft.entity is not None and feature == draft.entity.item


def _dense(path: YamlPath, feature: Dense) -> Iterator[Finding]:
    if isinstance(feature.fill, float) and transformed_number(feature, feature.fill) is None:
        yield (*path, "fill"), f"has no {feature.transform}, got {feature.fill}; choose another"


def _split(draft: Draft) -> Iterator[Finding]:
    split = draft.split
    if isinstance(split, RandomSplit | TemporalSplit) and split.fractions is not None:
        if min(split.fractions) < 0 or abs(sum(split.fractions) - 1) > 1e-6:
            yield (
                ("split", "fractions"),
                (f"must be at least 0 and sum to 1, got {list(split.fractions)}"),
            )
        elif split.fractions[0] == 0:
            yield ("split", "fractions"), f"training needs a share, got {list(split.fractions)}"
    needed = {TemporalSplit: ("time",), LeaveOneOutSplit: ("user", "time")}.get(type(split), ())
    for role in needed:
        if draft.entity is not None and getattr(draft.entity, role) is None:
            yield ("split",), f"{split.kind} needs entity.{role}; add it under `entity`"
    if isinstance(split, TemporalSplit):
        yield from _temporal(split, draft)
    if isinstance(split, ColumnSplit):
        values = [str(value) for value in (*split.train, *split.val, *split.test)]
        for value in dict.fromkeys(v for v in values if values.count(v) > 1):
            yield ("split",), f"a value belongs to one of train, val, test, got {value!r} twice"
        if not split.train:
            yield ("split", "train"), "training needs a value, got an empty list"


def _temporal(split: TemporalSplit, draft: Draft) -> Iterator[Finding]:
    starts = (split.val_from, split.test_from)
    given = [start is not None for start in starts]
    if (split.fractions is not None) == all(given) or any(given) != all(given):
        yield ("split",), "temporal needs either fractions, or val_from and test_from"
    texts = [
        (key, start)
        for key, start in zip(("val_from", "test_from"), starts, strict=True)
        if isinstance(start, str)
    ]
    for key, start in texts:
        try:
            datetime.fromisoformat(start)
        except ValueError:
            yield ("split", key), f"no ISO date or datetime, got {start!r}; write 2024-12-31"
            return
    if all(given) and type(starts[0]) is not type(starts[1]):
        yield ("split",), f"val_from and test_from must be alike, got {starts[0]!r}, {starts[1]!r}"
    elif all(given) and not _instant(starts[0]) < _instant(starts[1]):
        yield ("split", "test_from"), f"must be after val_from, got {starts[0]!r}, {starts[1]!r}"


def _instant(start: str | int | None) -> Any:
    """Something that can be compared; aware datetimes become naive UTC."""
    return utc_naive(datetime.fromisoformat(start)) if isinstance(start, str) else start
