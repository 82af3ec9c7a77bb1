"""Whether an older bundle's vectors and a newer one's work together, on held-out last events.

B users of a batch · K places · X items of either bundle, numbered jointly from 1 · D width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from features.errors import RunConfigError
from recsys.nearest.exact import Best, Candidates, best_items
from recsys.retrieval.ann import recall
from recsys.retrieval.held_out import Asked, HeldOut, Side, hold_out

PLACES, LIST = 10, 100
Who = Literal["old", "new"]
Catalogue = Literal["old", "new", "old + new"]
_PAIRS: tuple[tuple[Who, Catalogue], ...] = (
    ("old", "old"),
    ("new", "old"),
    ("old", "new"),
    ("new", "new"),
    ("new", "old + new"),
)


@dataclass(frozen=True)
class Crossing:
    """Users by one bundle, items by one or both.

    Attributes:
        users: Whose vectors of users.
        items: Whose vectors of items. `old + new`: those of the old bundle, and those of the new
            one for items that only it knows.
        num_items: That may be given.
        recall: Share of users whose held-out item is among the first 10.
        ndcg: Mean of 1 / log2(place + 1) of that item among the first 10, from place 1.
        overlap_old: Share of the first 100 of old users on old items that its first 100 have.
        overlap_new: The same of new users on new items.
    """

    users: Who
    items: Catalogue
    num_items: int
    recall: float
    ndcg: float
    overlap_old: float
    overlap_new: float


@dataclass(frozen=True)
class Compatibility:
    """How two bundles work together.

    Attributes:
        num_users: That were asked for.
        num_apart: Users that are left out, as the bundles' feature files keep different events.
        unknown_targets: Users whose held-out item a bundle does not know, which is a miss on its
            items, by bundle.
        only_old: Raw ids of the items that only the old one knows.
        only_new: Raw ids of the items that only the new one knows.
        num_common: Items that both know.
        crossings: Old on old, new on old, old on new, new on new, and, where the new one knows
            further items, new on old + new.
    """

    num_users: int
    num_apart: int
    unknown_targets: Mapping[Who, int]
    only_old: pl.Series
    only_new: pl.Series
    num_common: int
    crossings: tuple[Crossing, ...]

    @property
    def is_compatible(self) -> bool:
        """Whether new users find old items at least as well as old users do, by NDCG@10."""
        before, after, *_ = self.crossings
        return after.ndcg >= before.ndcg


def compatibility(old: Path, new: Path, data: Path) -> Compatibility:
    """Ask both bundles for the last event of each user, with either's vectors of items.

    Args:
        old: Directory of a sequence bundle.
        new: The same; its vectors as wide as the old one's.
        data: Folder with the files that both feature files name.

    Raises:
        RunConfigError: one is no sequence bundle, or vectors of the two cannot be compared.
        SchemaMismatchError: one is not whole.
        DataError: the data is not what one expects, no user has two events in it, or a vector is
            not finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        held_out = hold_out(old, new, data, folder=Path(folder))
        _check_vectors(held_out)
        return _compared(held_out)


def _check_vectors(held_out: HeldOut) -> None:
    of = [
        (side.scorer.manifest.width, side.scorer.has_item_bias)
        for side in (held_out.old, held_out.new)
    ]
    if of[0] != of[1]:
        words = [f"{width} numbers{' and a bias' if bias else ''}" for width, bias in of]
        raise RunConfigError(
            f"NEW_BUNDLE: has other vectors than OLD_BUNDLE, got {words[1]}, and {words[0]} in the "
            f"old one; allowed the same; train a model of that width and kind"
        )


def _compared(held_out: HeldOut) -> Compatibility:
    old, new = held_out.old, held_out.new
    catalogues = _catalogues(old, new, num_joint=held_out.num_joint)
    pairs = [pair for pair in _PAIRS if pair[1] in catalogues]
    sums = {pair: torch.zeros(4, dtype=torch.float64) for pair in pairs}
    for asked in held_out.asked():
        lists = {pair: _list(asked, pair[0], catalogues[pair[1]]) for pair in pairs}
        for pair, best in lists.items():
            sums[pair] += torch.stack(
                [
                    *_hits_and_gains(best, asked.targets_B),
                    _overlap(best, lists["old", "old"]),
                    _overlap(best, lists["new", "new"]),
                ]
            )
    num_users = len(held_out.events)
    is_old_X, is_new_X = (_known(side, num_joint=held_out.num_joint) for side in (old, new))
    targets_B = torch.from_numpy(held_out.events["target"].to_numpy().copy())
    return Compatibility(
        num_users=num_users,
        num_apart=held_out.num_apart,
        unknown_targets={
            "old": int((~is_old_X[targets_B]).sum()),
            "new": int((~is_new_X[targets_B]).sum()),
        },
        only_old=_without(old, is_new_X),
        only_new=_without(new, is_old_X),
        num_common=int((is_old_X & is_new_X).sum()),
        crossings=tuple(
            Crossing(*pair, len(catalogues[pair[1]]), *(sums[pair] / num_users).tolist())
            for pair in pairs
        ),
    )


def _catalogues(old: Side, new: Side, *, num_joint: int) -> dict[Catalogue, Candidates]:
    """Vectors by joint number: of either, and of both where the new one knows more."""
    is_old_X, is_new_X = (_known(side, num_joint=num_joint) for side in (old, new))
    old_XD, new_XD = (_by_joint_number(side, num_joint=num_joint) for side in (old, new))
    found: dict[Catalogue, Candidates] = {
        "old": Candidates.of(old_XD, allowed_V=is_old_X),
        "new": Candidates.of(new_XD, allowed_V=is_new_X),
    }
    if (is_new_X & ~is_old_X).any():
        both_XD = old_XD.where(is_old_X.unsqueeze(1), new_XD)
        found["old + new"] = Candidates.of(both_XD, allowed_V=is_old_X | is_new_X)
    return found


def _by_joint_number(side: Side, *, num_joint: int) -> Tensor:
    """Vectors (X, D) of a bundle's items; 0 of those that it does not know."""
    vectors_VD = side.scorer.item_vectors_VD
    vectors_XD = vectors_VD.new_zeros(num_joint, vectors_VD.shape[1])
    vectors_XD[side.joint_V] = vectors_VD
    vectors_XD[0] = 0
    return vectors_XD


def _known(side: Side, *, num_joint: int) -> Tensor:
    """Which joint numbers (X,) a bundle knows."""
    is_known_X = torch.zeros(num_joint, dtype=torch.bool)
    is_known_X[side.joint_V] = True
    is_known_X[0] = False
    return is_known_X


def _without(side: Side, is_known_X: Tensor) -> pl.Series:
    """Raw ids of a bundle's items that the other does not know."""
    joint = side.joint_V[1:]
    return side.names.filter(pl.Series(((joint > 0) & ~is_known_X[joint]).numpy()))


def _list(asked: Asked, who: Who, items: Candidates) -> Best:
    users_BD = asked.old_BD if who == "old" else asked.new_BD
    return best_items(users_BD, items, k=LIST, seen=asked.seen)


def _hits_and_gains(best: Best, targets_B: Tensor) -> Iterator[Tensor]:
    """Sums over users. Of equal scores the target comes last, as in evaluation."""
    is_target_BK = (best.ids_BK == targets_B.unsqueeze(1)) & (targets_B > 0).unsqueeze(1)
    scores_B1 = best.scores_BK.where(is_target_BK, torch.inf).amin(dim=1, keepdim=True)
    place_B = (best.scores_BK >= scores_B1).sum(dim=1)
    is_hit_B = is_target_BK.any(dim=1) & (place_B <= PLACES)
    yield is_hit_B.sum()
    yield (1 / (place_B[is_hit_B] + 1).double().log2()).sum()


def _overlap(best: Best, of: Best) -> Tensor:
    """Sum over users of the share of a list that another has."""
    return recall(best.ids_BK, of.ids_BK).double().sum()
