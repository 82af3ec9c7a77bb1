"""Which rows can follow when a table is stored otherwise: the rules, one feature at a time.

Tables whose rows are those of ids (`full`, `hash`, `unified`) are made of each other: rows follow
ids. All other schemes are kept whole or not at all, but vectors can be read out into a full table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from features.edits.changes import Note
from features.edits.id_changes import IdChanges
from features.edits.meaning import is_stored_alike
from features.edits.sides import Side
from features.sizes import parse_bytes
from features.table_spec import (
    DHETable,
    FullTable,
    HashedNetTable,
    HashTable,
    MultihashTable,
    PlannedTable,
    PQTable,
    RobeTable,
    StoredTable,
    UnifiedTable,
)

FLOAT_BYTES = 4
RowTable = FullTable | HashTable | UnifiedTable


@dataclass(frozen=True)
class Move:
    """A feature's way from a table to a table, which may be the same.

    Attributes:
        old: The feature file before.
        new: The feature file now.
        old_table: What the feature read.
        new_table: What it reads.
        is_same_table: Whether the two are the same, but for a name.
        was: Name of the feature in the old file.
        name: In the new one.
        ids: Changes of the ids, of all features that both files have.
    """

    old: Side
    new: Side
    old_table: str
    new_table: str
    is_same_table: bool
    was: str
    name: str
    ids: Mapping[str, IdChanges]

    @property
    def is_unbounded(self) -> bool:
        """Whether nobody knows the ids."""
        return self.new.is_unbounded(self.name)

    @property
    def has_its_salts(self) -> bool:
        """Whether hashes of the ids are salted as before."""
        return self.old.first_name(self.was) == self.new.first_name(self.name)

    @property
    def has_its_owners(self) -> bool:
        """Whether both tables hold the same ids of the same features, in the same order."""
        return self._owners(self.old, self.old_table) == self._owners(self.new, self.new_table)

    @property
    def ids_of_both(self) -> list[IdChanges]:
        """Changes of all ids that have rows in the new table, as far as they are known."""
        return [self.ids[n] for n in self.new.owners(self.new_table) if n in self.ids]

    @staticmethod
    def _owners(side: Side, table: str) -> list[tuple[str, int | None]]:
        return [(side.first_name(n), side.num_ids(n)) for n in side.owners(table)]


def move_notes(before: StoredTable, after: StoredTable, move: Move) -> tuple[Note, ...]:
    """What becomes of the vectors of a feature.

    Args:
        before: What they were stored in.
        after: What they are stored in.
        move: From where to where.
    """
    if isinstance(before, RowTable) and isinstance(after, RowTable):
        return (*_row_notes(before, after, move), *_width_notes(before, after, move))
    if move.is_same_table and is_stored_alike(before, after):
        return _whole_notes(after, move)
    if isinstance(after, FullTable):
        words = f"vectors are read out of scheme {before.scheme}; state of optimizers is new"
        return (("unpacked", words), *_width_notes(before, after, move))
    if before.scheme == after.scheme and move.is_same_table:
        return (("reset", f"a {after.scheme} table of other settings: {_settings(before, after)}"),)
    if before.scheme == after.scheme:
        return (("reset", f"it is in another table, and scheme {after.scheme} has no rows of ids"),)
    words = f"scheme {before.scheme} cannot be turned into {after.scheme}; go by way of full"
    if isinstance(before, RowTable):
        words = f"scheme {after.scheme} cannot be made of the rows of {before.scheme}"
    return (("reset", words),)


def num_rows(table: HashTable | UnifiedTable) -> int:
    """Rows of each physical table of a row scheme."""
    assert table.dim is not None, "resolved"
    if table.rows is not None:
        numbers = table.rows * table.dim
    else:
        assert table.budget is not None
        numbers = parse_bytes(table.budget) // FLOAT_BYTES
    num_tables = table.num_tables if isinstance(table, UnifiedTable) else 1
    return max(1, numbers // (table.dim * num_tables))


# ---------------------------------------------------------------------------------- row schemes
def _row_notes(before: RowTable, after: RowTable, move: Move) -> list[Note]:
    own = move.ids[move.name]
    if isinstance(after, FullTable):
        notes = list(own.notes)
        if not isinstance(before, FullTable):
            notes.append(
                ("moved", f"each id has a row of its own, copied from scheme {before.scheme}")
            )
        return notes
    reasons = _other_rows(before, after, move)
    if not reasons:
        return [*own.notes, *_repeated(before, after)]
    if move.is_unbounded:
        why = "; ".join(reasons)
        return [("reset", f"ids are 63-bit hashes that nobody knows, and rows are others: {why}")]
    return [*own.notes, ("rehashed", f"ids have other rows: {'; '.join(reasons)}")]


def _other_rows(before: RowTable, after: HashTable | UnifiedTable, move: Move) -> list[str]:
    """Why hashed ids are in other rows than before."""
    if before.scheme != after.scheme:
        return [f"scheme was {before.scheme}, is {after.scheme}"]
    assert isinstance(before, HashTable | UnifiedTable)
    reasons = []
    sizes = num_rows(before), num_rows(after)
    has_blocks = isinstance(after, HashTable) and (
        max(len(move.old.owners(move.old_table)), len(move.new.owners(move.new_table))) > 1
    )
    if sizes[1] % sizes[0] or (has_blocks and sizes[0] != sizes[1]):
        reasons.append(f"{sizes[0]:,} rows, now {sizes[1]:,}")
    if isinstance(before, UnifiedTable) and isinstance(after, UnifiedTable):
        reasons += _other_hashes(before, after, move)
    if not move.has_its_salts:
        first = move.old.first_name(move.was)
        reasons.append(f"hashes go by its first name; write `renamed_from: {first}`")
    if has_blocks and not move.has_its_owners:
        reasons.append("its features share out the rows by their ids, and these are others")
    elif has_blocks and _follow_data(move):
        reasons.append(
            "its features share out the rows by their ids, whose number follows the data"
        )
    if not move.ids[move.name].stay:
        reasons.append("its ids are others")
    return reasons


def _other_hashes(before: UnifiedTable, after: UnifiedTable, move: Move) -> list[str]:
    reasons = []
    if before.seed != after.seed:
        reasons.append(f"seed was {before.seed}, is {after.seed}")
    if before.num_tables != after.num_tables:
        reasons.append(f"num_tables was {before.num_tables}, is {after.num_tables}")
    elif after.num_tables > 1 and _turns(move.old, move.old_table) != _turns(
        move.new, move.new_table
    ):
        reasons.append("features take other turns in its tables")
    return reasons


def _turns(side: Side, table: str) -> list[tuple[str, int]]:
    return [(side.first_name(n), side.feature_set.feature(n).probes) for n in side.owners(table)]


def _follow_data(move: Move) -> bool:
    return any(ids.follow_data for ids in move.ids_of_both)


def _repeated(before: RowTable, after: HashTable | UnifiedTable) -> list[Note]:
    assert isinstance(before, HashTable | UnifiedTable), "of one scheme"
    sizes = num_rows(before), num_rows(after)
    if sizes[0] == sizes[1]:
        return []
    times = sizes[1] // sizes[0]
    return [
        ("grown", f"{sizes[0]:,} rows, now {times} times as many: rows repeat, ids keep theirs")
    ]


def _width_notes(before: StoredTable, after: StoredTable, move: Move) -> list[Note]:
    widths = [
        (table.dim or 0) * (side.feature_set.feature(name).probes if one_by_one else 1)
        for table, side, name, one_by_one in (
            (before, move.old, move.was, isinstance(before, UnifiedTable)),
            (after, move.new, move.name, isinstance(after, UnifiedTable)),
        )
    ]
    if isinstance(before, UnifiedTable) and isinstance(after, UnifiedTable):
        widths = [before.dim or 0, after.dim or 0]  # probe by probe
    if widths[0] == widths[1]:
        return []
    fate = "widened" if widths[1] > widths[0] else "narrowed"
    return [(fate, f"vectors of {widths[0]} numbers, now {widths[1]}: the leading ones are kept")]


# -------------------------------------------------------------------------------- other schemes
def _whole_notes(after: StoredTable, move: Move) -> tuple[Note, ...]:
    """A table of another scheme and the same settings: whole, or lost."""
    ids = move.ids_of_both
    if isinstance(after, PlannedTable):
        return _planned_notes(after, move)
    if not all(change.stay for change in ids):
        return (("reset", f"ids have other numbers, and scheme {after.scheme} hangs on them"),)
    if not _has_shapes_by_ids(after, move):
        return move.ids[move.name].notes
    if not move.has_its_owners or any(c.notes for c in ids if not c.follow_data):
        return (("reset", f"a {after.scheme} table is shaped by its ids, and these are others"),)
    if _follow_data(move):
        words = (
            f"a {after.scheme} table is shaped by its ids: kept if the data has as many, else reset"
        )
        return (("changed", words),)
    return ()


def _planned_notes(after: PlannedTable, move: Move) -> tuple[Note, ...]:
    plans = [
        schema.plans.get(table)
        for schema, table in (
            (move.old.schema, move.old_table),
            (move.new.schema, move.new_table),
        )
        if schema is not None
    ]
    digests = {plan.digest for plan in plans if plan is not None}
    if move.old.owners(move.old_table) != move.new.owners(move.new_table):
        return (
            ("reset", f"its plan {after.plan} is for features of other names, or in another order"),
        )
    if len(digests) > 1:
        return (("reset", f"its plan {after.plan} is another"),)
    if not move.has_its_owners or not all(c.are_the_same for c in move.ids_of_both):
        return (("reset", f"its plan {after.plan} is for ids that are others now"),)
    return ()


def _has_shapes_by_ids(table: StoredTable, move: Move) -> bool:
    """Whether what is stored depends on how many ids there are."""
    match table:
        case DHETable():
            return False
        case PQTable() | RobeTable() | HashedNetTable() | MultihashTable(weighted=False):
            several = max(
                len(move.old.owners(move.old_table)), len(move.new.owners(move.new_table))
            )
            return not table.multiplexed and several > 1
        case _:
            return True


def _settings(before: StoredTable, after: StoredTable) -> str:
    old, new = before.model_dump(), after.model_dump()
    differing = [key for key in new if key != "renamed_from" and old[key] != new[key]]
    return ", ".join(f"{key} was {old[key]}, is {new[key]}" for key in differing)
