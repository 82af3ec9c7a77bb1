"""What becomes of tables, and of features for the sake of the tables that they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from features.edits.changes import Change, Note, gravest, in_words
from features.edits.id_changes import IdChanges
from features.edits.row_rules import Move, move_notes
from features.edits.sides import Side
from features.table_spec import DecoupledTable, FullTable, StoredTable, Table, stored_tables


@dataclass(frozen=True)
class TableChanges:
    """Of two feature files.

    Attributes:
        tables: Those of the new file in its order, then those that are gone.
        of_features: What becomes of features of the new file, for the sake of their tables.
    """

    tables: tuple[Change, ...]
    of_features: Mapping[str, tuple[Note, ...]]


def table_changes(
    old: Side,
    new: Side,
    *,
    names: Mapping[str, str],
    tables: Mapping[str, str],
    ids: Mapping[str, IdChanges],
) -> TableChanges:
    """What becomes of every table.

    Args:
        old: The feature file before.
        new: The feature file now.
        names: Old names of features by new ones.
        tables: Old names of tables by new ones.
        ids: Changes of ids by feature of the new file, of those that looked up rows before.
    """
    comparison = _Comparison(old, new, names, tables, ids)
    changes: list[Change] = []
    of_features: dict[str, tuple[Note, ...]] = {}
    for name in new.tables:
        notes = comparison.of_readers(name)
        change = comparison.table(name, notes)
        changes.append(change)
        for reader, found in notes.items():
            # Of a table that is reset as a whole, and of what a table shows, features say nothing.
            of_features[reader] = tuple(
                (fate, words)
                for fate, words in found
                if fate == "reset" or (fate == "moved" and words.startswith("reads"))
            )
    changes += [comparison.gone(name) for name in old.tables if name not in tables.values()]
    return TableChanges(tuple(changes), of_features)


@dataclass(frozen=True)
class _Comparison:
    old: Side
    new: Side
    names: Mapping[str, str]
    tables: Mapping[str, str]
    ids: Mapping[str, IdChanges]

    def of_readers(self, table: str) -> dict[str, tuple[Note, ...]]:
        """What becomes of each feature of a table that looked up rows before."""
        found: dict[str, tuple[Note, ...]] = {}
        sources = self._sources(table)
        for reader in self.new.readers(table):
            if reader not in self.ids:
                continue
            if self.ids[reader].are_lost:
                found[reader] = self.ids[reader].notes
                continue
            if not self._has_its_rows(reader):
                continue  # its line says so
            source = self.old.feature_set.table_of(self.names[reader])
            notes = list(self._moved(reader, source, table))
            if len(sources) > 1:
                notes += self._met(reader, table, sources)
            found[reader] = tuple(notes)
        return found

    def table(self, name: str, of_readers: Mapping[str, tuple[Note, ...]]) -> Change:
        """What becomes of a table of the new file."""
        was = self.tables.get(name)
        readers = self.new.readers(name)
        lost = [r for r, notes in of_readers.items() if gravest(notes) == "reset"]
        going_on = [reader for reader in of_readers if reader not in lost]
        if not of_readers:
            if was is None:
                return Change("table", name, None, "new")
            why = f"none of its features was there before: {', '.join(readers)}"
            return Change("table", name, was, "reset", (why,))
        if not going_on:
            return Change("table", name, was, "reset", in_words(_named(of_readers, lost)))
        notes = [note for reader in going_on for note in of_readers[reader]]
        extra = list(self._table_notes(name, lost))
        fate = gravest([*notes, *extra])
        return Change("table", name, was, fate, in_words([*_named(of_readers, going_on), *extra]))

    def gone(self, name: str) -> Change:
        """What becomes of a table that the new file has not."""
        heirs = {was: reader for reader, was in self.names.items()}
        going_on = {
            self.new.feature_set.table_of(heirs[reader])
            for reader in self.old.readers(name)
            if reader in heirs and self._goes_on(heirs[reader])
        }
        words = [f"its features read {', '.join(sorted(going_on))} now"] if going_on else []
        return Change("table", name, name, "dropped", tuple(words))

    # ---------------------------------------------------------------------------------- inside
    def _sources(self, table: str) -> list[str]:
        """Old tables whose vectors the new one goes on with."""
        found = (
            self.old.feature_set.table_of(self.names[reader])
            for reader in self.new.readers(table)
            if self._goes_on(reader) and self.new.owner(reader) == reader
        )
        return list(dict.fromkeys(found))

    def _goes_on(self, reader: str) -> bool:
        """Whether a feature of the new file reads rows that it has read before."""
        if reader not in self.ids or self.ids[reader].are_lost:
            return False
        return self._has_its_rows(reader)

    def _has_its_rows(self, reader: str) -> bool:
        """Whether the ids are those of the feature that they were of before."""
        owner = self.new.owner(reader)
        return owner == reader or (
            self.old.owner(self.names[owner]) == self.old.owner(self.names[reader])
        )

    def _moved(self, reader: str, source: str, table: str) -> Iterator[Note]:
        """What becomes of a feature's vectors, in each role."""
        is_same = self.tables.get(table) == source
        if not is_same:
            yield "moved", f"reads table {table}, read {source}"
        before, after = self.old.tables[source], self.new.tables[table]
        move = Move(
            old=self.old,
            new=self.new,
            old_table=source,
            new_table=table,
            is_same_table=is_same,
            was=self.names[reader],
            name=reader,
            ids=self.ids,
        )
        if isinstance(after, DecoupledTable) and not isinstance(before, DecoupledTable):
            yield "moved", "both roles start from the same vectors"
        elif isinstance(before, DecoupledTable) and not isinstance(after, DecoupledTable):
            yield (
                "moved",
                "vectors of the role representation go on; those of attention are dropped",
            )
        elif isinstance(before, DecoupledTable) and isinstance(after, DecoupledTable):
            yield from _target_notes(before, after)
        for role, stored in stored_tables("", after).items():
            for fate, words in move_notes(_in_role(before, role), stored, move):
                yield fate, f"{role.removeprefix('@')}: {words}" if role else words

    def _met(self, reader: str, table: str, sources: list[str]) -> Iterator[Note]:
        """What it means that rows of several tables come together."""
        stored = stored_tables("", self.new.tables[table]).values()
        words = f"made of the rows of {', '.join(sources)}"
        if all(isinstance(x, FullTable) for x in stored):
            yield "merged", words
        elif self.new.is_unbounded(reader):
            yield "reset", f"ids are 63-bit hashes that nobody knows, and their table is {words}"
        else:
            yield "merged", f"{words}; those that share a row get their mean, by counts"

    def _table_notes(self, name: str, lost: list[str]) -> Iterator[Note]:
        was = self.tables.get(name)
        if was is not None and was != name:
            yield "renamed", f"was {was}"
        if was is None:
            yield "moved", "a table of its own now"
        stored = stored_tables("", self.new.tables[name]).values()
        is_full = all(isinstance(x, FullTable) for x in stored)
        for reader in self.new.readers(name):
            if reader not in self.ids:
                words = "has new rows" if is_full else "finds rows that others trained"
                yield ("grown" if is_full else "kept"), f"new feature {reader} {words}"
        for reader in lost:
            owner = self.new.owner(reader)
            if self._goes_on(owner):
                was_here = self.old.feature_set.table_of(self.names[reader]) == was
                words = f"feature {reader} has the rows of {owner}"
                yield ("shrunk" if is_full and was_here else "kept"), words
            else:
                yield "changed", f"feature {reader} starts anew"
        heirs = {old: new for new, old in self.names.items()}
        for reader in self.old.readers(was) if was is not None else ():
            heir = heirs.get(reader)
            if heir is None or heir not in self.new.readers(name):
                words = "is gone" if heir is None else "reads another table"
                yield ("shrunk" if is_full else "kept"), f"feature {reader} {words}"


def _named(of_readers: Mapping[str, tuple[Note, ...]], readers: list[str]) -> list[Note]:
    """Notes of several features, each with the features that it is about."""
    about: dict[Note, list[str]] = {}
    for reader in readers:
        for note in of_readers[reader]:
            about.setdefault(note, []).append(reader)
    is_one = len(of_readers) == 1
    return [
        (fate, words if is_one or not words else f"{', '.join(names)}: {words}")
        for (fate, words), names in about.items()
    ]


def _in_role(table: Table, role: str) -> StoredTable:
    """What a table stores for a role; a plain one stores the same for all."""
    stored = stored_tables("", table)
    if role in stored:
        return stored[role]
    return stored.get("@representation") or stored[""]


def _target_notes(before: DecoupledTable, after: DecoupledTable) -> Iterator[Note]:
    if before.separate_target == after.separate_target:
        return
    if after.separate_target:
        yield "moved", "tables of the target start from those that it shared with the history"
    else:
        yield "moved", "the history's tables go on; those of the target alone are dropped"
