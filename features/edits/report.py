"""A difference of two feature files, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from features.edits.changes import Change, Difference, What

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = 1
_TITLES: dict[What, str] = {
    "table": "Tables",
    "feature": "Features",
    "sequence": "Sequences",
    "setting": "Settings",
}
_COLORS = {"kept": "dim", "new": "green", "grown": "green", "dropped": "yellow", "reset": "red"}


def difference_json(difference: Difference, *, needs_data: Mapping[str, str]) -> dict[str, Any]:
    """`format`, `exit_code`, `resets`, `needs_data` (why, by feature), `changes`.

    Args:
        difference: What becomes of everything.
        needs_data: Features that are to be fitted, from `needing_data`.
    """
    return {
        "format": FORMAT,
        "exit_code": difference.exit_code,
        "resets": list(difference.resets),
        "needs_data": dict(needs_data),
        "changes": [asdict(change) for change in difference.changes],
    }


def difference_tables(difference: Difference) -> list[Table]:
    """A table to print for each kind of parts that there are."""
    from rich.table import Table

    found = []
    for what, title in _TITLES.items():
        changes = difference.of(what)
        if not changes:
            continue
        table = Table(what, "", "why", title=title, title_justify="left")
        for change in changes:
            fate = change.fate
            color = _COLORS.get(fate)
            text = f"[{color}]{fate}[/{color}]" if color else fate
            table.add_row(change.name, text, "\n".join(_escaped(change)))
        found.append(table)
    return found


def verdict(difference: Difference, *, needs_data: Mapping[str, str]) -> list[str]:
    """Sentences that say what follows.

    Args:
        difference: What becomes of everything.
        needs_data: Features that are to be fitted, from `needing_data`.
    """
    found = []
    if needs_data:
        why = "; ".join(f"{name}, as {reason}" for name, reason in needs_data.items())
        found.append(f"Fitted to data, so that migrate needs --data: {why}.")
    match difference.exit_code:
        case 0:
            found.append("Checkpoints fit as they are.")
        case 1:
            found.append("Checkpoints fit after python -m recsys migrate.")
        case _:
            options = " ".join(f"--reset {name}" for name in difference.resets)
            found.append(f"Not everything can be kept: python -m recsys migrate needs {options}.")
    return found


def _escaped(change: Change) -> list[str]:
    from rich.markup import escape

    return [escape(reason) for reason in change.reasons]
