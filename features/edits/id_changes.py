"""What becomes of the ids of a feature that two feature files have."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from features.checks import resolved_encoding
from features.edits.changes import Note
from features.edits.meaning import (
    is_fitted_alike,
    is_looser,
    is_stricter,
    other_meaning,
)
from features.edits.sides import Side
from features.schema import Vocabulary
from features.spec import Bucketized, VocabEncoding
from features.values import same_kind

FOLLOWS_DATA = "how many ids follows the data"


@dataclass(frozen=True)
class IdChanges:
    """Of one feature.

    Attributes:
        notes: Of the ids: grown, shrunk, merged, changed; reset where they mean other things.
        stay: Whether all ids that go on keep their numbers.
        follow_data: Whether only the data can tell how many there are.
    """

    notes: tuple[Note, ...] = ()
    stay: bool = True
    follow_data: bool = False

    @property
    def are_the_same(self) -> bool:
        """Whether nothing at all happens."""
        return not self.notes and self.stay and not self.follow_data

    @property
    def are_lost(self) -> bool:
        """Whether they mean other things."""
        return any(fate == "reset" for fate, _ in self.notes)


def id_changes(old: Side, new: Side, *, name: str, names: Mapping[str, str]) -> IdChanges:
    """What becomes of the ids of a feature that looks up rows on both sides, or on one.

    Args:
        old: The feature file before.
        new: The feature file now.
        name: Of the feature in the new file.
        names: Old names by new ones.
    """
    other = other_meaning(old.feature_set, new.feature_set, name=name, names=names)
    if other:
        return IdChanges(tuple(("reset", f"ids mean other things: {why}") for why in other))
    after = new.feature_set.feature(name)
    if isinstance(after, Bucketized):
        return _of_ranges(old, new, was=names[name], name=name)
    before_encoding = resolved_encoding(old.feature_set, old.feature_set.feature(names[name]))
    after_encoding = resolved_encoding(new.feature_set, after)
    if isinstance(before_encoding, VocabEncoding) and isinstance(after_encoding, VocabEncoding):
        if old.schema is not None and new.schema is not None:
            return _of_values(old.schema.vocabulary_of(names[name]), new.schema.vocabulary_of(name))
        return _of_rules(before_encoding, after_encoding)
    return _of_sizes(old.num_ids(names[name]), new.num_ids(name))


def _of_values(old: Vocabulary, new: Vocabulary) -> IdChanges:
    if not same_kind(old.values.dtype, new.values.dtype):
        why = f"ids mean other things: values were {old.values.dtype}, are {new.values.dtype}"
        return IdChanges((("reset", why),))
    dtype = old.values.dtype if old.values.dtype == new.values.dtype else pl.String()
    before, after = old.values.cast(dtype), new.values.cast(dtype)
    kept = before.filter(before.is_in(after.implode()))
    still = after.filter(after.is_in(before.implode()))
    notes: list[Note] = []
    if len(after) > len(still):
        notes.append(("grown", f"{len(after) - len(still):,} new values"))
    if len(before) > len(kept):
        notes.append(("shrunk", f"{len(before) - len(kept):,} values leave"))
    stay = len(kept) == 0 or bool((before.head(len(kept)) == after.head(len(kept))).all())
    if not stay and len(before) == len(kept):
        notes.append(("moved", "values have other ids"))
    return IdChanges(tuple(notes), stay=stay)


def _of_rules(before: VocabEncoding, after: VocabEncoding) -> IdChanges:
    if before == after:
        return IdChanges()
    notes: list[Note] = []
    if is_stricter(before, after):
        notes.append(("shrunk", f"min_count or max_size is stricter; {FOLLOWS_DATA}"))
    if is_looser(before, after):
        notes.append(("grown", f"min_count or max_size lets more values in; {FOLLOWS_DATA}"))
    return IdChanges(tuple(notes), follow_data=True)


def _of_sizes(before: int | None, after: int | None) -> IdChanges:
    if before is None or after is None or before == after:
        return IdChanges()
    if after > before:
        return IdChanges((("grown", f"{before:,} ids, now {after:,}"),))
    return IdChanges((("shrunk", f"{before:,} ids, now {after:,}; those above leave"),))


def _of_ranges(old: Side, new: Side, *, was: str, name: str) -> IdChanges:
    before, after = (
        side.feature_set.feature(n).boundaries if side.schema is None else side.schema.boundaries[n]
        for side, n in ((old, was), (new, name))
    )
    if before is None or after is None:
        is_alike = before == after and is_fitted_alike(
            old.feature_set.feature(was), new.feature_set.feature(name)
        )
        words = f"ranges are drawn anew; {FOLLOWS_DATA}"
        return IdChanges() if is_alike else IdChanges((("merged", words),), False, True)
    if before == after:
        return IdChanges()
    spanning = [r for r in _ranges(after) if _spans_several(before, *r)]
    words = f"{len(before) + 1} ranges, now {len(after) + 1}"
    if spanning:
        words += f"; {len(spanning)} of them lie over several old ones: their mean, by overlap"
        return IdChanges((("merged", words),), stay=False)
    return IdChanges((("grown", f"{words}, each within an old one, whose row it has"),), stay=False)


def _ranges(boundaries: tuple[float, ...]) -> list[tuple[float, float]]:
    ends = [float("-inf"), *boundaries, float("inf")]
    return list(pairwise(ends))


def _spans_several(boundaries: tuple[float, ...], low: float, high: float) -> bool:
    """Whether a boundary lies inside a range, which holds its lower end."""
    place = bisect_right(boundaries, low)
    return place < len(boundaries) and boundaries[place] < high
