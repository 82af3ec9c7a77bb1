"""Two sequence bundles on the same users: the last event of each, and what came before it.

B users of a batch · V items of one bundle · X items of either, numbered jointly from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from features import columns
from features.errors import DataError
from recsys.data.item_sequence import ItemSequence
from recsys.data.loader import BatchLoader
from recsys.data.scoring import encode_for_scoring, last_event_batches, last_events
from recsys.data.store import EncodedStore
from recsys.item_names import item_names
from recsys.nearest.exact import Seen
from recsys.retrieval.run import open_scorer
from recsys.scoring.scorer import Scorer
from recsys.types import Batch

_BATCH = 256
_USER, _PLACE, _TARGET = "user", "place", "target"


@dataclass(frozen=True)
class Side:
    """One of the two bundles, and the data as it reads it.

    Attributes:
        scorer: The bundle.
        names: Raw id of each of its items as text, from id 1 on.
        joint_V: Joint number of each of its ids; 0 of id 0.
        store: The data.
        events: The last event of each user with two or more, and all that reads it.
    """

    scorer: Scorer
    names: pl.Series
    joint_V: Tensor
    store: EncodedStore
    events: pl.DataFrame

    def batches(self, places: pl.Series) -> BatchLoader:
        """Some of the events, in this order."""
        return last_event_batches(self.store, self.events[places], batch_size=_BATCH)

    @property
    def asked(self) -> pl.DataFrame:
        """User as text, place in `events`, and joint number of the target, of each event."""
        item = ItemSequence.of(self.scorer.schema.feature_set).item
        joint = self.joint_V[torch.from_numpy(self.events[item].cast(pl.Int64).to_numpy().copy())]
        users = self.store.read_users().cast(pl.String)
        return pl.DataFrame(
            {
                _USER: users.gather(self.events[columns.USER]),
                _PLACE: range(len(self.events)),
                _TARGET: joint.numpy(),
            },
            schema_overrides={_PLACE: pl.Int64},
        )


@dataclass(frozen=True)
class Asked:
    """Some users of both sides.

    Attributes:
        old_BD: Their vectors, by the old bundle.
        new_BD: The same by the new one.
        targets_B: Joint number of the item to find; 0 where no bundle knows it.
        seen: What they had before, by joint numbers, but for the target.
    """

    old_BD: Tensor
    new_BD: Tensor
    targets_B: Tensor
    seen: Seen


@dataclass(frozen=True)
class HeldOut:
    """Both bundles on the same users.

    Attributes:
        old: One side.
        new: The other.
        events: Place of each user's event on both sides, and its target.
        num_apart: Users that are left out, since the bundles' feature files keep different events
            of them.
    """

    old: Side
    new: Side
    events: pl.DataFrame
    num_apart: int

    @property
    def num_joint(self) -> int:
        """X, and one more for number 0."""
        return int(max(self.old.joint_V.max(), self.new.joint_V.max())) + 1

    def asked(self) -> Iterator[Asked]:
        """All users, those with short histories first.

        Raises:
            DataError: a vector is not finite.
        """
        first = 0
        loaders = (s.batches(self.events[n]) for s, n in ((self.old, "old"), (self.new, "new")))
        for old, new in zip(*loaders, strict=True):
            part = self.events[first : first + len(old)]
            first += len(old)
            yield self._asked(old, new, targets=part[_TARGET])

    def _asked(self, old: Batch, new: Batch, *, targets: pl.Series) -> Asked:
        targets_B = torch.from_numpy(targets.to_numpy().copy())
        seen = ((self.old.joint_V, old), (self.new.joint_V, new))
        values = torch.cat([joint_V[batch.seen_values] for joint_V, batch in seen])
        users_B = torch.arange(len(targets_B))
        owners = torch.cat([users_B.repeat_interleave(b.seen_lengths_B) for _, b in seen])
        is_out = (values > 0) & (values != targets_B[owners])
        owners, order = owners[is_out].sort(stable=True)
        return Asked(
            old_BD=_finite(self.old.scorer.user_vectors(old), who="OLD_BUNDLE"),
            new_BD=_finite(self.new.scorer.user_vectors(new), who="NEW_BUNDLE"),
            targets_B=targets_B,
            seen=Seen(values[is_out][order], torch.bincount(owners, minlength=len(targets_B))),
        )


def hold_out(old: Path, new: Path, data: Path, *, folder: Path) -> HeldOut:
    """Read a folder of data as two bundles do, and hold out the last event of each user.

    Args:
        old: Directory of a sequence bundle.
        new: The same.
        data: Folder with the files that both feature files name.
        folder: Where encoded data may lie.

    Raises:
        RunConfigError: one is no sequence bundle.
        SchemaMismatchError: one is not whole.
        DataError: the data is not what one expects, or no user has two events in it.
    """
    scorers = [open_scorer(bundle) for bundle in (old, new)]
    names = [item_names(scorer.schema).cast(pl.String) for scorer in scorers]
    joint = pl.concat([n.alias("name") for n in names]).unique(maintain_order=True).drop_nulls()
    numbers = joint.to_frame().with_columns(number=pl.int_range(1, len(joint) + 1))
    sides = []
    for side, (scorer, of_side) in enumerate(zip(scorers, names, strict=True)):
        found = (
            of_side.alias("name")
            .to_frame()
            .join(numbers, on="name", how="left", maintain_order="left")
        )
        of_ids = found["number"].fill_null(0).cast(pl.Int64).to_numpy().copy()
        joint_V = torch.cat([torch.zeros(1, dtype=torch.int64), torch.from_numpy(of_ids)])
        store = encode_for_scoring(scorer.schema, data, folder / str(side))
        sides.append(Side(scorer, of_side, joint_V, store, last_events(store)))
    both = sides[0].asked.join(sides[1].asked, on=_USER, how="full", suffix="_new")
    targets = pl.col(_TARGET), pl.col(f"{_TARGET}_new")
    same = both.filter((targets[0] == targets[1]) | (pl.min_horizontal(*targets) == 0))
    same = same.drop_nulls(["place", "place_new"])
    if not len(same):
        raise DataError(
            f"{data}: has no user to ask for, got none with two events or more that both bundles "
            f"read; give the users' whole histories"
        )
    lengths = sides[0].events[columns.POSITION].gather(same["place"])
    events = same.select(
        old="place", new="place_new", target=pl.max_horizontal(*targets), length=lengths
    ).sort("length", "old")
    return HeldOut(sides[0], sides[1], events, len(both) - len(same))


def _finite(vectors_BD: Tensor, *, who: str) -> Tensor:
    wrong = int((~vectors_BD.isfinite().all(dim=1)).sum())
    if wrong:
        raise DataError(
            f"{who}: vectors of users are not finite, got NaN or infinity for {wrong} users; "
            f"allowed numbers; export an earlier checkpoint"
        )
    return vectors_BD
