"""Where the rows of all tables come from, by the schemes before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from features.edits.meaning import is_stored_alike
from features.schema import FeatureSchema
from recsys.migration.cuts import Cut, Origin, cuts_of, readers_of, strips_of
from recsys.migration.ids import id_sources
from recsys.migration.matrix import Place, Strip
from recsys.migration.names import OldNames
from recsys.migration.sources import SameRows
from recsys.tables.blocks import Block
from recsys.tables.embedder import Embedder
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.scheme import Scheme
from recsys.tables.schemes.full import FullScheme
from recsys.tables.schemes.hash import HashScheme
from recsys.tables.schemes.unified import UnifiedScheme

Way = Literal["same rows", "by id", "whole", "unpacked", "new"]


@dataclass(frozen=True)
class TablePlan:
    """How one new logical table is filled.

    Attributes:
        scheme: The new one.
        way: `same rows`: each row is the old one; `by id`: rows follow their ids; `whole`: all
            that the scheme stores is as it was; `unpacked`: vectors of ids become rows; `new`.
        origins: By feature that has ids of its own; those without are new.
        strips: By new physical table, of its columns.
        was: Old scheme whose own parameters are kept, if any.
        cuts: Which columns come from which.
        zero: By new physical table, rows that start at zero.
        lost: Features that were there before and begin anew, with the reason.
    """

    scheme: Scheme
    way: Way
    origins: Mapping[str, Origin]
    strips: Mapping[str, tuple[Strip, ...]]
    was: Scheme | None = None
    cuts: tuple[Cut, ...] = ()
    zero: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Edit:
    """The schemas and tables before and after.

    Attributes:
        old: The schema before.
        new: The schema now.
        old_embedder: Its tables before.
        new_embedder: And now.
        names: Old names by new ones.
        zero_fields: Whether new fields start with zeros, where they have rows of their own.
    """

    old: FeatureSchema
    new: FeatureSchema
    old_embedder: Embedder
    new_embedder: Embedder
    names: OldNames
    zero_fields: bool


def plan_tables(edit: Edit) -> tuple[TablePlan, ...]:
    """How every new logical table is filled, in the order of the feature file."""
    return tuple(_plan(edit, scheme) for scheme in schemes_of(edit.new_embedder))


def schemes_of(embedder: Embedder) -> Iterator[Scheme]:
    """All schemes of an embedder."""
    for scheme in embedder.schemes.values():
        assert isinstance(scheme, Scheme)
        yield scheme


def file_name(table: str) -> str:
    """What the feature file calls a logical table."""
    return table.partition("@")[0]


def _plan(edit: Edit, scheme: Scheme) -> TablePlan:
    names = edit.names.features
    origins = dict(_origins(edit, scheme))
    lost = {
        name: "its ids mean other values than before"
        for name in scheme.table.num_ids_per_namespace()
        if name in names and name not in origins
    }
    zero = _zero_rows(edit, scheme, origins) if edit.zero_fields else {}
    if origins and (was := _kept_whole(edit, scheme, origins)) is not None:
        strips = {
            new.name: (_all_rows(old.name, old.num_rows, old.dim),)
            for new, old in _pairs(edit, scheme, was)
        }
        return TablePlan(scheme, "whole", origins, strips, was=was)
    if origins and (was := _same_rows(scheme, origins, has_lost=bool(lost))) is not None:
        strips = {
            new.name: (_all_rows(old.name, old.num_rows, min(old.dim, new.dim)),)
            for new, old in zip(scheme.physical_tables, was.physical_tables, strict=True)
        }
        return TablePlan(scheme, "same rows", origins, strips, lost=lost, zero=zero)
    for name, origin in list(origins.items()):
        if (why := _obstacle(scheme, origin)) is not None:
            lost[name] = why
            del origins[name]
    if not origins:
        return TablePlan(scheme, "new", {}, {}, lost=lost, zero=zero)
    cuts = tuple(cut for name, o in origins.items() for cut in cuts_of(scheme, name, o))
    is_packed = any(not origin.scheme.is_made_of_rows for origin in origins.values())
    way: Way = "unpacked" if is_packed else "by id"
    strips = strips_of(scheme, cuts)
    return TablePlan(scheme, way, origins, strips, lost=lost, cuts=cuts, zero=zero)


def _obstacle(scheme: Scheme, origin: Origin) -> str | None:
    """Why what a feature's ids have learned cannot become rows of a table; None where it can."""
    before, now = origin.scheme.table.spec.scheme, scheme.table.spec.scheme
    is_unpacked = isinstance(scheme, FullScheme) and scheme.is_made_of_rows
    if not scheme.is_made_of_rows or not (origin.scheme.is_made_of_rows or is_unpacked):
        return (
            f"what {before} stores cannot become what {now} stores, with these settings and "
            f"numbers of ids"
        )
    if origin.ids.num_new is None:
        return "its ids are hashes of any value, of which no list says where to find their rows"
    return None


def _origins(edit: Edit, scheme: Scheme) -> Iterator[tuple[str, Origin]]:
    """By feature that has ids of its own."""
    for namespace, reader in readers_of(scheme).items():
        if namespace not in edit.names.features:
            continue
        found = _old_reader(edit, scheme.table, reader)
        if found is None:
            continue
        ids = id_sources(edit.old, edit.new, feature=namespace, names=edit.names.features)
        if ids is not None:
            yield namespace, Origin(*found, ids)


def _old_reader(edit: Edit, table: LogicalTable, reader: Reader) -> tuple[Scheme, Reader] | None:
    """What read a feature's ids before: the same key if there was, else any for the feature."""
    was = edit.names.key(reader.key)
    feature = edit.names.features[reader.namespace]
    _, at, role = reader.key.partition("@")
    found: list[tuple[int, int, Scheme, Reader]] = []
    for scheme in schemes_of(edit.old_embedder):
        for old in scheme.table.readers:
            if old.key == was:
                rank = 0
            elif old.key.startswith("@") or old.column.rpartition(".")[2] != feature:
                continue
            else:
                _, _, old_role = old.key.partition("@")
                rank = 1 if old_role == role else {"representation": 2, "": 3}.get(old_role, 4)
            found.append((rank, -old.probes, scheme, old))
    if not found or (at and reader.key.startswith("@") and found[0][0] != 0):
        return None
    best = min(found, key=lambda entry: entry[:2])
    # The one of its table that looks up the most.
    wider = readers_of(best[2])[best[3].namespace]
    return best[2], wider


def _kept_whole(edit: Edit, scheme: Scheme, origins: Mapping[str, Origin]) -> Scheme | None:
    """The old scheme, where all it stores is good as it is; for schemes that are not rows."""
    if scheme.is_made_of_rows or len({id(o.scheme) for o in origins.values()}) != 1:
        return None
    was = next(iter(origins.values())).scheme
    is_same = (
        is_stored_alike(was.table.spec, scheme.table.spec)
        and all(origin.ids.is_identity for origin in origins.values())
        and origins.keys() == scheme.table.num_ids_per_namespace().keys()
        and len(was.table.num_ids_per_namespace()) == len(origins)
        and scheme.row_meaning() == _renamed(was.row_meaning(), edit.names)
        and _pairs(edit, scheme, was) is not None
        and own_names(edit, scheme, was) is not None
    )
    return was if is_same else None


def _pairs(edit: Edit, scheme: Scheme, was: Scheme) -> Any:
    """New and old physical tables; None where they differ."""
    old = {table.name: table for table in was.physical_tables}
    found = []
    for table in scheme.physical_tables:
        same = old.get(_old_part(table.name, scheme, was, edit.names))
        if same is None or (same.num_rows, same.dim) != (table.num_rows, table.dim):
            return None
        found.append((table, same))
    return found if len(found) == len(old) else None


def own_names(edit: Edit, scheme: Scheme, was: Scheme) -> dict[str, str] | None:
    """Old names of a scheme's own tensors by new ones, within it; None where they differ."""
    old, found = was.state_dict(), {}
    for name, tensor in scheme.state_dict().items():
        before = ".".join(edit.names.features.get(part, part) for part in name.split("."))
        if before not in old or old[before].shape != tensor.shape:
            return None
        found[name] = before
    return found if len(found) == len(old) else None


def _old_part(name: str, scheme: Scheme, was: Scheme, names: OldNames) -> str:
    """Old name of a physical table, which starts with that of its logical table."""
    rest = name.removeprefix(scheme.table.name)
    return was.table.name + names.old_parts(rest)


def _renamed(meaning: Any, names: OldNames) -> Any:
    """A row meaning with the new names of features."""
    new = {was: name for name, was in names.features.items()}
    if isinstance(meaning, dict):
        return {new.get(key, key): _renamed(value, names) for key, value in meaning.items()}
    if isinstance(meaning, list):
        return [_renamed(value, names) for value in meaning]
    return new.get(meaning, meaning) if isinstance(meaning, str) else meaning


def _same_rows(scheme: Scheme, origins: Mapping[str, Origin], *, has_lost: bool) -> Scheme | None:
    """The old scheme, where each new row is an old one, whatever id reads it."""
    if len({id(o.scheme) for o in origins.values()}) != 1:
        return None
    was = next(iter(origins.values())).scheme
    if has_lost and not isinstance(scheme, UnifiedScheme):  # rows of their own, to begin anew
        return None
    sizes = [t.num_rows for t in was.physical_tables], [t.num_rows for t in scheme.physical_tables]
    if len(sizes[0]) != len(sizes[1]):
        return None
    repeats = {new // old if new % old == 0 else 0 for old, new in zip(*sizes, strict=True)}
    if len(repeats) != 1 or 0 in repeats:
        return None
    [times] = repeats
    is_same = all(origin.ids.is_identity for origin in origins.values()) and all(
        new == (salt, table, first, size * times) and (times == 1 or first == 0)
        for origin_name, origin in origins.items()
        for new, (salt, table, first, size) in _placements(scheme, origin_name, origin)
    )
    return was if is_same else None


_Placement = tuple[int, int, int, int]


def _placements(
    scheme: Scheme, namespace: str, origin: Origin
) -> Iterator[tuple[_Placement | None, _Placement]]:
    """Where each probe that both have finds the rows of a feature, now and before."""
    new = _of_reader(scheme, readers_of(scheme)[namespace])
    old = _of_reader(origin.scheme, origin.reader)
    if not new or not old:  # not hashed
        yield None, (0, 0, 0, 0)
    if len(new) < len(old) or len(new) > len(old):
        # Other probes move no rows of a unified table, but do in others.
        is_unified = isinstance(scheme, UnifiedScheme) and isinstance(origin.scheme, UnifiedScheme)
        if not is_unified:
            yield None, (0, 0, 0, 0)
    yield from zip(new, old, strict=False)


def _of_reader(scheme: Scheme, reader: Reader) -> list[_Placement]:
    if not isinstance(scheme, HashScheme | UnifiedScheme):
        return []
    numbers = {table.name: number for number, table in enumerate(scheme.physical_tables)}
    tables = {lookup.name: numbers[lookup.table] for lookup in scheme.lookups}
    return [
        (read.salt, tables[read.name], read.block.first, read.block.size)
        for read in scheme.reads.reads
        if read.reader == reader.key
    ]


def _all_rows(name: str, num_rows: int, width: int) -> Strip:
    return Strip(slice(0, width), SameRows(num_rows), (Place(name, slice(0, width)),))


def _zero_rows(
    edit: Edit, scheme: Scheme, origins: Mapping[str, Origin]
) -> dict[str, tuple[Block, ...]]:
    """Rows that new fields alone read."""
    new = [n for n in scheme.table.num_ids_per_namespace() if n not in edit.names.features]
    if not origins and len(new) == len(scheme.table.num_ids_per_namespace()):
        return {t.name: (Block(0, t.num_rows),) for t in scheme.physical_tables}
    blocks: Mapping[str, Block] = {}
    if isinstance(scheme, FullScheme):
        blocks = scheme.own
    elif isinstance(scheme, HashScheme):
        blocks = scheme.blocks
    return {scheme.physical_tables[0].name: tuple(blocks[n] for n in new if n in blocks)}
