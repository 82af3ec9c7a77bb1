"""What is wrong with a trained table, in words."""

from __future__ import annotations

from recsys.tables.angles import narrowest
from recsys.tables.diagnosis import TableDiagnosis

# A tenth of the ids that matter most, and readers with three quarters (cos² 30°) of their
# attention on the same parts of a row.
MOST_MERGED = 0.1
NARROW_DEGREES = 30


def findings(table: TableDiagnosis) -> list[str]:
    """A sentence for each thing that asks for another feature file or another training."""
    return [*_broken(table), *_merged(table), *_too_many_rows(table), *_narrow(table)]


def _broken(table: TableDiagnosis) -> list[str]:
    return [
        f"{physical.name}: {physical.num_broken_rows:,} of its {physical.num_rows:,} rows have NaN "
        f"or infinite numbers; train anew, with a smaller learning rate"
        for physical in table.physical
        if physical.num_broken_rows
    ]


def _merged(table: TableDiagnosis) -> list[str]:
    shared = "share a row" if table.rows_per_id == 1 else "share all rows"
    mend = "more rows, or probes" if table.scheme == "unified" else "more rows"
    return [
        f"{feature}: {of_feature.same_rows:.0%} of its {of_feature.num_ids:,} most frequent ids "
        f"{shared} with another; {mend}"
        for feature, of_feature in table.collisions.items()
        if of_feature.same_rows >= MOST_MERGED
    ]


def _too_many_rows(table: TableDiagnosis) -> list[str]:
    if table.scheme not in ("hash", "unified") or table.rows_per_id != 1:
        return []
    loads = [physical.load_factor for physical in table.physical]
    if any(load is None or load >= 1 for load in loads):
        return []
    return [
        f"{table.name}: has more rows than ids; scheme: full takes fewer bytes, and no ids share "
        f"rows"
    ]


def _narrow(table: TableDiagnosis) -> list[str]:
    # Elsewhere features either share no rows, or meet at other places of their vectors.
    if table.scheme != "unified":
        return []
    found = [a for a in narrowest(table.angles or ()) if (a.degrees or 0) < NARROW_DEGREES]
    if not found:
        return []
    least = found[0]
    return [
        f"{table.name}: {least.one} and {least.other} read rows in almost one direction, "
        f"{least.degrees:.0f} degrees ({len(found)} of {len(table.angles or ())} pairs are below "
        f"{NARROW_DEGREES}), so that shared rows disturb them; more rows, or a larger dim"
    ]
