"""Users of a sequence bundle: their vectors, and the items that fit them best.

U users that are asked for · B users at once · D width · K places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import DataError
from recsys.data.item_sequence import ItemSequence
from recsys.data.scoring import user_batches
from recsys.data.store import EncodedStore
from recsys.nearest.exact import Best, Seen
from recsys.scoring.scorer import Scorer
from recsys.scoring.threads import mapped, one_thread_each
from recsys.types import Batch

# Constant, as the last bits of scores follow the shapes of batches. Few users at once have
# histories of about one length, which attention pads to that of the longest; the product with the
# catalogue wants more.
_USERS_OF_BATCH, _BATCHES = 64, 4
_Found = TypeVar("_Found")
Search = Callable[["Users"], Best]
"""Finds the best items of some users, the same number of places for all."""


@dataclass(frozen=True)
class Users:
    """Some users.

    Attributes:
        rows_B: Their history rows.
        vectors_BD: What items are compared with.
        seen: Items they have had.
    """

    rows_B: Tensor
    vectors_BD: Tensor
    seen: Seen


def of_each_user(
    scorer: Scorer,
    store: EncodedStore,
    users: NDArray[np.int64],
    *,
    find: Callable[[Users], _Found],
    num_threads: int,
) -> Iterator[tuple[Tensor, _Found]]:
    """What is found for users, some of them at a time, those with short histories first.

    Args:
        scorer: A sequence bundle.
        store: Has the histories.
        users: History rows.
        find: Called from several threads.
        num_threads: Groups of users that are worked on at once; results do not depend on it.

    Returns:
        Where in `users` a group stands, and what was found for it.

    Raises:
        DataError: a vector is not finite.
    """
    items = ItemSequence.of(store.schema.feature_set)
    lengths = store.histories_of(items.feature).lengths_of(users)
    order = np.minimum(lengths, items.feature.max_length).argsort(kind="stable")

    def work(batches: list[Batch]) -> _Found:
        return find(users_of(scorer, batches))

    loaded = iter(user_batches(store, batch_size=_USERS_OF_BATCH, users=users[order]))
    groups = iter(lambda: list(islice(loaded, _BATCHES)), [])
    step = _USERS_OF_BATCH * _BATCHES
    with one_thread_each():
        found = mapped(work, groups, num_threads=num_threads)
        for start, of_group in zip(range(0, len(order), step), found, strict=True):
            yield torch.from_numpy(order[start : start + step]), of_group


def best_of_each(
    scorer: Scorer,
    store: EncodedStore,
    users: NDArray[np.int64],
    *,
    search: Search,
    num_threads: int,
) -> Best:
    """The best items of users, in their order.

    Args:
        scorer: A sequence bundle.
        store: Has the histories.
        users: History rows.
        search: Finds them.
        num_threads: Groups of users that are worked on at once.

    Raises:
        DataError: a vector is not finite.
    """
    if not len(users):  # of a log whose every row was rejected
        return Best(torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0))
    found = list(of_each_user(scorer, store, users, find=search, num_threads=num_threads))
    back_U = torch.cat([places for places, _ in found]).argsort()
    ids_UK = torch.cat([best.ids_BK for _, best in found])[back_U]
    return Best(ids_UK, torch.cat([best.scores_BK for _, best in found])[back_U])


def as_rows(
    best: Best, users: NDArray[np.int64], *, scorer: Scorer, store: EncodedStore
) -> pl.DataFrame:
    """A row for each user and place that has an item: user, item, `score` and `rank` from 1.

    Args:
        best: Of these users.
        users: History rows.
        scorer: Names the items.
        store: Names the users.
    """
    feature_set = scorer.schema.feature_set
    user, item = feature_set.entity.user, feature_set.entity.item
    assert user is not None, "a sequence bundle has users"
    assert item is not None, "a sequence bundle has items"
    num_users, num_places = best.ids_BK.shape
    frame = pl.DataFrame(
        {
            "user": users.repeat(num_places),
            "item": best.ids_BK.flatten().numpy(),
            "score": best.scores_BK.flatten().numpy(),
            "rank": np.tile(np.arange(1, num_places + 1), num_users),
        }
    ).filter(pl.col("item") > 0)
    return frame.select(
        store.names_of(frame["user"].to_numpy()).alias(user),
        scorer.schema.decode(item, frame["item"]).alias(item),
        "score",
        "rank",
    )


def users_of(scorer: Scorer, batches: list[Batch]) -> Users:
    """The users of some batches.

    Raises:
        DataError: a vector is not finite.
    """
    rows_B = torch.cat([batch.users_B for batch in batches])
    vectors_BD = torch.cat([scorer.user_vectors(batch) for batch in batches])
    wrong = (~vectors_BD.isfinite().all(dim=1)).sum()
    if wrong:
        raise DataError(
            f"user vectors: are not finite, got NaN or infinity for {int(wrong)} users; allowed "
            f"numbers; train again, or export an earlier checkpoint"
        )
    seen = Seen(
        torch.cat([batch.seen_values for batch in batches]),
        torch.cat([batch.seen_lengths_B for batch in batches]),
    )
    return Users(rows_B, vectors_BD, seen)
