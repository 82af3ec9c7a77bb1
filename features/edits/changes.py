"""What becomes of a feature file's parts when it is edited: the words that `diff` prints.

`recsys migrate` prints and obeys the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

What = Literal["feature", "table", "sequence", "setting"]

Fate = Literal[
    "kept",
    "renamed",
    "moved",
    "changed",
    "grown",
    "widened",
    "shrunk",
    "narrowed",
    "unpacked",
    "merged",
    "rehashed",
    "new",
    "dropped",
    "reset",
]
"""From the mildest on.

kept       nothing happens to it
renamed    has another name
moved      every id keeps its vector, elsewhere
changed    all is kept, but stands for something else, or only the data can tell
grown      more ids, rows or events; all old ones are kept
widened    wider vectors, whose leading part is kept
shrunk     some ids, rows or events leave; the others are kept
narrowed   the leading part of vectors is kept
unpacked   vectors are read out of what stored them, and become rows; state of optimizers is new
merged     rows of several tables, or of several ranges, come together
rehashed   ids get other rows: the mean, by counts, of those that they and their neighbours had
new        starts from first values
dropped    goes; what was learned goes with it, unless the words say where it goes on
reset      cannot be kept, and must be given up by name
"""

ALL_FATES: tuple[Fate, ...] = get_args(Fate)
Note = tuple[Fate, str]
"""A fate and why, in words; the words may be empty."""


@dataclass(frozen=True)
class Change:
    """What becomes of one part.

    Attributes:
        what: Kind of part.
        name: In the new file; of a dropped one in the old.
        was: Name in the old file. None: it has none there.
        fate: What happens to it, the gravest of all.
        reasons: Everything that happens to it, in words.
        table: Of a feature that looks up rows: the table, in the file that its name is of.
    """

    what: What
    name: str
    was: str | None
    fate: Fate
    reasons: tuple[str, ...] = ()
    table: str | None = None


@dataclass(frozen=True)
class Difference:
    """What becomes of every part of two feature files.

    Attributes:
        changes: Tables, features and sequences of both files, each once; settings that changed.
    """

    changes: tuple[Change, ...]

    @property
    def resets(self) -> tuple[str, ...]:
        """Names that must be given up with `--reset`.

        A table's name stands for all its features. Giving a name up means that what cannot be kept
        of it may start anew; what can is kept.
        """
        tables = [c.name for c in self.changes if c.what == "table" and c.fate == "reset"]
        others = [
            c.name
            for c in self.changes
            if c.what != "table" and c.fate == "reset" and c.table not in tables
        ]
        return tuple(dict.fromkeys(tables + others))

    @property
    def exit_code(self) -> int:
        """0: a checkpoint fits as it is; 1: it can be migrated; 2: only by giving up `resets`."""
        if self.resets:
            return 2
        return int(any(change.fate != "kept" for change in self.changes))

    def of(self, what: What) -> tuple[Change, ...]:
        """The changes of one kind of parts."""
        return tuple(change for change in self.changes if change.what == what)


def gravest(notes: Iterable[Note]) -> Fate:
    """The gravest fate of some; kept where there are none."""
    found = [ALL_FATES.index(fate) for fate, _ in notes]
    return ALL_FATES[max(found, default=0)]


def in_words(notes: Iterable[Note]) -> tuple[str, ...]:
    """The words of some notes, each once."""
    return tuple(dict.fromkeys(words for _, words in notes if words))
