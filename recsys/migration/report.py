"""What a migration did, as JSON and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
from rich.table import Table

from features.edits.report import difference_json
from features.edits.sides import Side
from recsys.migration.filling import TableReport
from recsys.migration.ids import IdSources, id_sources
from recsys.migration.migration import Migration
from recsys.migration.tables import Edit

_SHOWN = 5


def as_json(migration: Migration, reports: Mapping[str, TableReport]) -> dict[str, Any]:
    """All numbers, and the names of all tensors of the layers."""
    dropped = dropped_values(migration)
    return {
        "from": str(migration.checkpoint),
        "schema": {
            "before": migration.edit.old.fingerprint(),
            "now": migration.edit.new.fingerprint(),
        },
        "reset": [why for _, why in migration.lost()],
        "renamed": _renamed(migration),
        "changes": difference_json(migration.difference, needs_data={})["changes"],
        "tables": {
            plan.scheme.table.name: {
                "scheme": plan.scheme.table.spec.scheme,
                "way": plan.way,
                **_counts(reports[plan.scheme.table.name]),
            }
            for plan in migration.tables
        },
        "dropped_tables": dropped_tables(migration),
        "dropped_values": {name: len(values) for name, values in dropped.items()},
        "layers": layers(migration),
    }


def tables_to_print(migration: Migration, reports: Mapping[str, TableReport]) -> Table:
    """A line per table."""
    shown = Table(title="Rows", title_justify="left")
    for column in ("table", "rows are", "optimiser's state"):
        shown.add_column(column, overflow="fold")
    for column in ("rows", "kept", "merged", "new"):
        shown.add_column(column, justify="right")
    for plan in migration.tables:
        report = reports[plan.scheme.table.name]
        counts = report.counts
        shown.add_row(
            plan.scheme.table.name,
            _WAYS[plan.way],
            ", ".join(report.state) or "new",
            *(f"{n:,}" for n in (report.rows, counts.kept, counts.merged, counts.initialised)),
        )
    return shown


_WAYS = {
    "same rows": "as they were",
    "by id": "with their ids",
    "whole": "as they were",
    "unpacked": "unpacked by id",
    "new": "new",
}


def words(migration: Migration, reports: Mapping[str, TableReport]) -> Iterator[str]:
    """What else there is to say."""
    for now, was in _renamed(migration).items():
        yield f"{now}: was {was}"
    for name, report in reports.items():
        if report.loss is not None:
            yield (
                f"{name}: {report.counts.merged:,} rows are means of several, which moves the "
                f"vectors of ids by {report.loss:.2%} of their mean square"
            )
    for _, why in migration.lost():
        yield f"reset: {why}"
    for name, values in dropped_values(migration).items():
        first = ", ".join(repr(value) for value in values["value"].head(_SHOWN).to_list())
        more = ", ..." if len(values) > _SHOWN else ""
        yield f"{name}: {len(values):,} values left the vocabulary: {first}{more}"
    if dropped := dropped_tables(migration):
        yield f"tables that are gone: {', '.join(dropped)}"
    found = layers(migration)
    yield "layers: " + ", ".join(f"{len(names)} tensors {fate}" for fate, names in found.items())
    for fate in ("edited", "new", "reset", "dropped"):
        if found[fate]:
            yield f"  {fate}: {', '.join(found[fate])}"


def layers(migration: Migration) -> dict[str, list[str]]:
    """Names of the tensors beside the tables, by what became of them."""
    plan = migration.layers
    stuck = plan.stuck
    return {
        "kept": [m.name for m in plan.moves if m.is_whole],
        "edited": [m.name for m in plan.moves if m.was is not None and not m.is_whole],
        "new": [m.name for m in plan.moves if m.was is None and m.name not in stuck],
        "reset": list(plan.stuck),
        "dropped": list(plan.dropped),
    }


def dropped_values(migration: Migration) -> dict[str, pl.DataFrame]:
    """Values, with their counts, that nothing new goes on with, by feature that had a list of them.

    All those of a feature that is gone, is like another now, or whose ids mean other things.
    """
    edit = migration.edit
    found: dict[str, pl.DataFrame] = {}
    for was, vocabulary in edit.old.vocabularies.items():
        goes_on = np.zeros(len(vocabulary.values) + 1, dtype=bool)
        for ids in _heirs(edit, was):
            goes_on[ids.old_S] = True
        known = pl.DataFrame({"value": vocabulary.values, "count": vocabulary.counts})
        known = known.filter(pl.Series(~goes_on[1:]))
        if len(known):
            found[was] = known
    return found


def _heirs(edit: Edit, was: str) -> Iterator[IdSources]:
    """Of the features that go on with the ids of an old one."""
    before, after = Side(edit.old.feature_set, edit.old), Side(edit.new.feature_set, edit.new)
    names = edit.names.features
    for feature in edit.new.feature_set.embedded:
        name = feature.name
        if name in names and after.owner(name) == name and before.owner(names[name]) == was:
            ids = id_sources(edit.old, edit.new, feature=name, names=names)
            if ids is not None:
                yield ids


def dropped_tables(migration: Migration) -> list[str]:
    """Old logical tables from which no row was taken."""
    used = {
        origin.scheme.table.name for plan in migration.tables for origin in plan.origins.values()
    }
    now = {plan.scheme.table.name for plan in migration.tables}
    return [
        name for name in migration.edit.old_embedder.schemes if name not in used and name not in now
    ]


def _renamed(migration: Migration) -> dict[str, str]:
    names = migration.edit.names
    both = {**names.tables, **names.features}
    return {now: was for now, was in both.items() if now != was}


def _counts(report: TableReport) -> dict[str, Any]:
    return {
        "rows": report.rows,
        "kept": report.counts.kept,
        "merged": report.counts.merged,
        "initialised": report.counts.initialised,
        "optimiser_state": list(report.state),
        "loss": report.loss,
    }
