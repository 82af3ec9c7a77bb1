"""Which columns of new tables come from which columns of old ones, where rows follow their ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from recsys.migration.ids import IdSources
from recsys.migration.matrix import Place, Strip
from recsys.migration.sources import HashedRows, IdRows, LookupRows, OwnRows, Piece
from recsys.tables.logical import Reader
from recsys.tables.scheme import Lookup, Scheme
from recsys.tables.schemes.full import FullScheme
from recsys.tables.schemes.unified import UnifiedScheme


@dataclass(frozen=True)
class Origin:
    """Where the ids of one feature that reads a new table were read before.

    Attributes:
        scheme: The old one.
        reader: Its reader.
        ids: Old ids of new ones.
    """

    scheme: Scheme
    reader: Reader
    ids: IdSources


@dataclass(frozen=True)
class Cut:
    """Columns of a lookup that come from columns of something old.

    Attributes:
        namespace: Whose ids.
        origin: Where they were read.
        lookup: Of the new scheme.
        start: First new column.
        stop: The one after the last.
        old: Of the old scheme; None: whole vectors.
        old_start: First old column.
    """

    namespace: str
    origin: Origin
    lookup: Lookup
    start: int
    stop: int
    old: Lookup | None
    old_start: int


def vectors_name(origin: Origin) -> str:
    """What reads whole vectors of ids are called."""
    return f"vectors of {origin.reader.key}"


def readers_of(scheme: Scheme) -> dict[str, Reader]:
    """The reader of each feature that looks up the most."""
    found: dict[str, Reader] = {}
    for reader in scheme.table.readers:
        known = found.get(reader.namespace)
        if known is None or reader.probes > known.probes:
            found[reader.namespace] = reader
    return found


def cuts_of(scheme: Scheme, namespace: str, origin: Origin) -> Iterator[Cut]:
    """Probe by probe between unified tables, else number by number of the whole vector."""
    reader = readers_of(scheme)[namespace]
    new = _lookups(scheme, reader)
    width = scheme.physical_tables[0].dim
    if not origin.scheme.is_made_of_rows:
        stop = min(width, origin.scheme.widths[origin.reader.key])
        yield Cut(namespace, origin, new[0], 0, stop, None, 0)
        return
    old = _lookups(origin.scheme, origin.reader)
    old_width = origin.scheme.physical_tables[0].dim
    if isinstance(scheme, UnifiedScheme) and isinstance(origin.scheme, UnifiedScheme):
        for lookup, was in zip(new, old, strict=False):
            yield Cut(namespace, origin, lookup, 0, min(width, old_width), was, 0)
        return
    for number, lookup in enumerate(new):
        for place, was in enumerate(old):
            low = max(number * width, place * old_width)
            high = min((number + 1) * width, (place + 1) * old_width)
            if low < high:
                first = number * width
                yield Cut(
                    namespace,
                    origin,
                    lookup,
                    low - first,
                    high - first,
                    was,
                    low - place * old_width,
                )


def strips_of(scheme: Scheme, cuts: Sequence[Cut]) -> dict[str, tuple[Strip, ...]]:
    """By new physical table."""
    found = {}
    for table in scheme.physical_tables:
        of_table = [cut for cut in cuts if cut.lookup.table == table.name]
        edges = sorted({edge for cut in of_table for edge in (cut.start, cut.stop)})
        found[table.name] = tuple(
            _strip(scheme, [c for c in of_table if c.start <= low and high <= c.stop], low, high)
            for low, high in pairwise(edges)
        )
    return found


def _strip(scheme: Scheme, cuts: list[Cut], low: int, high: int) -> Strip:
    places: list[Place] = []
    pieces = []
    for cut in cuts:
        first = cut.old_start + low - cut.start
        of = vectors_name(cut.origin) if cut.old is None else cut.old.table
        place = Place(of, slice(first, first + high - low))
        if place not in places:
            places.append(place)
        pieces.append(
            Piece(
                ids=cut.origin.ids,
                scheme=scheme,
                reader=readers_of(scheme)[cut.namespace],
                lookup=cut.lookup,
                place=places.index(place),
                old_rows=IdRows()
                if cut.old is None
                else LookupRows(cut.origin.scheme, cut.origin.reader, cut.old),
                first_row=scheme.own[cut.namespace].first
                if isinstance(scheme, FullScheme)
                else None,
            )
        )
    sources = OwnRows(pieces) if isinstance(scheme, FullScheme) else HashedRows(pieces)
    return Strip(slice(low, high), sources, tuple(places))


def _lookups(scheme: Scheme, reader: Reader) -> list[Lookup]:
    return [lookup for lookup in scheme.lookups if lookup.reader == reader.key]
