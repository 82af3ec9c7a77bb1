"""Which old id each new id of a feature is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.checks import resolved_encoding
from features.edits.meaning import other_meaning
from features.schema import FeatureSchema
from features.spec import Bucketized, HashEncoding, VocabEncoding
from features.values import same_kind


@dataclass(frozen=True)
class IdSources:
    """New ids with the old ids that they come from, by rising new id.

    An id that is new has no entry; a range that covers several old ones has one for each.

    Attributes:
        new_S: New ids.
        old_S: Old ids.
        weight_S: How much an old id counts where several meet in one row.
        num_new: New ids are below this; None: any 63-bit number, each the same as before.
        num_old: Likewise.
    """

    new_S: NDArray[np.int64]
    old_S: NDArray[np.int64]
    weight_S: NDArray[np.float32]
    num_new: int | None
    num_old: int | None

    @property
    def is_identity(self) -> bool:
        """Whether every old id is still what it was."""
        if self.num_old is None:
            return self.num_new is None
        if len(self.old_S) < self.num_old or self.num_new is None:
            return False
        head = slice(0, self.num_old)
        every_id = np.arange(self.num_old)
        return (
            len(self.new_S) == self.num_old
            and np.array_equal(self.new_S[head], every_id)
            and np.array_equal(self.old_S[head], every_id)
        )

    def places(self) -> NDArray[np.int64]:
        """Old id of each new id, -1 where it has none; for features whose ids have one source."""
        assert self.num_new is not None, "a catalogue has a size"
        found = np.full(self.num_new, -1, dtype=np.int64)
        found[self.new_S] = self.old_S
        return found

    def within(
        self, low: int, high: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """New ids of a range with their old ids and weights."""
        first, last = np.searchsorted(self.new_S, [low, high])
        part = slice(first, last)
        return self.new_S[part], self.old_S[part], self.weight_S[part]

    def dropped(self) -> NDArray[np.int64]:
        """Old ids that no new id comes from."""
        if self.num_old is None:
            return np.zeros(0, dtype=np.int64)
        is_used = np.zeros(self.num_old, dtype=bool)
        is_used[self.old_S] = True
        return (~is_used).nonzero()[0]


def id_sources(
    old: FeatureSchema, new: FeatureSchema, *, feature: str, names: Mapping[str, str]
) -> IdSources | None:
    """The old ids of a feature's ids; None where they mean other things, or the feature is new.

    Values of another kind (text for numbers) are other things, whatever they look like.

    Args:
        old: The schema before.
        new: The schema now.
        feature: Has ids of its own, in the new schema.
        names: Old names by new ones.
    """
    if feature not in names or other_meaning(
        old.feature_set, new.feature_set, name=feature, names=names
    ):
        return None
    was = names[feature]
    sizes = new.num_ids(feature), old.num_ids(was)
    if isinstance(new.feature_set.feature(feature), Bucketized):
        return _of_ranges(old.boundaries[was], new.boundaries[feature])
    encoding = resolved_encoding(new.feature_set, new.feature_set.feature(feature))
    if isinstance(encoding, VocabEncoding):
        return _of_values(old, new, feature=feature, was=was)
    if sizes[0] is None or sizes[1] is None:
        nothing = np.zeros(0, dtype=np.int64)
        return IdSources(nothing, nothing, nothing.astype(np.float32), *sizes)
    if isinstance(encoding, HashEncoding):
        assert sizes[0] == sizes[1], "another size is another meaning"
    every_id = np.arange(min(sizes[0], sizes[1]))
    return IdSources(every_id, every_id, np.ones(len(every_id), dtype=np.float32), *sizes)


def _of_values(
    old: FeatureSchema, new: FeatureSchema, *, feature: str, was: str
) -> IdSources | None:
    known, now = old.vocabulary_of(was), new.vocabulary_of(feature)
    types = known.values.dtype, now.values.dtype
    if not same_kind(*types):
        return None
    # No one type holds both numbers below 0 and those from 2**63 on.
    dtype = types[0] if types[0] == types[1] else pl.String()
    before = pl.DataFrame({"value": known.values.cast(dtype), "count": known.counts})
    before = before.with_row_index("old", 1)
    after = pl.DataFrame({"value": now.values.cast(dtype)}).with_row_index("new", 1)
    both = after.join(before, on="value", how="inner").sort("new")
    # The id 0 is everything unknown, before and after; what it was counted is not known.
    new_S = np.concatenate([[0], both["new"].to_numpy()]).astype(np.int64)
    old_S = np.concatenate([[0], both["old"].to_numpy()]).astype(np.int64)
    counts_S = np.concatenate([[1], both["count"].to_numpy()]).astype(np.float32)
    return IdSources(
        new_S, old_S, np.maximum(counts_S, 1), len(now.values) + 1, len(known.values) + 1
    )


def _of_ranges(old: tuple[float, ...], new: tuple[float, ...]) -> IdSources:
    """Ranges by what they cover of the old ones.

    All boundaries together cut the numbers into pieces, each within one old and one new range. The
    open pieces at both ends count as much as the others do on average.
    """
    cuts = sorted({*old, *new})
    mean = (cuts[-1] - cuts[0]) / (len(cuts) - 1) if len(cuts) > 1 else 1.0
    sizes = [1.0, *((high - low) / mean for low, high in pairwise(cuts)), 1.0]
    weights: dict[tuple[int, int], float] = {}
    for start, size in zip([-inf, *cuts], sizes, strict=False):  # without a cut, one is all
        pair = bisect_right(new, start), bisect_right(old, start)
        weights[pair] = weights.get(pair, 0.0) + size
    new_S, old_S = np.array(list(weights), dtype=np.int64).T
    weight_S = np.array(list(weights.values()), dtype=np.float32)
    return IdSources(new_S, old_S, weight_S, len(new) + 1, len(old) + 1)
