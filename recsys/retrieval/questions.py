"""What each user took last, as a question: with the history before it, is it found?

U users · B users at once · D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features import columns
from features.errors import DataError
from recsys.data.scoring import last_event_batches, last_events
from recsys.data.store import EncodedStore
from recsys.nearest.exact import Seen
from recsys.scoring.scorer import Scorer
from recsys.scoring.users import users_of

_AT_ONCE = 256


@dataclass(frozen=True)
class Questions:
    """Some users before their last event.

    Attributes:
        vectors_BD: What items are compared with.
        targets_B: Item of the last event; 0 where the bundle does not know it.
        seen: Items of the events before, but the last one's.
    """

    vectors_BD: Tensor
    targets_B: Tensor
    seen: Seen

    def __len__(self) -> int:
        """B."""
        return len(self.targets_B)


def questions(scorer: Scorer, store: EncodedStore, *, max_users: int) -> Iterator[Questions]:
    """Users of two events and more, some at a time, those with short histories first.

    Args:
        scorer: A sequence bundle.
        store: Has the histories.
        max_users: Of more, some are taken at equal distances.

    Raises:
        DataError: there is no such user, or a vector is not finite.
    """
    events = last_events(store)
    if not len(events):
        raise DataError("DATA: has nobody to ask, got no user of two events and more; give more")
    spread = np.linspace(0, len(events) - 1, min(max_users, len(events))).astype(np.int64)
    chosen = events[spread].sort(columns.POSITION, columns.USER)
    for batch in last_event_batches(store, chosen, batch_size=_AT_ONCE):
        asked = users_of(scorer, [batch])
        owners = torch.arange(len(batch.targets_B)).repeat_interleave(asked.seen.lengths_B)
        is_left_out = asked.seen.values != batch.targets_B[owners]
        lengths_B = torch.bincount(owners[is_left_out], minlength=len(batch.targets_B))
        seen = Seen(asked.seen.values[is_left_out], lengths_B)
        yield Questions(asked.vectors_BD, batch.targets_B, seen)
