"""What is known of rankers that keep some events of a history."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from recsys.nn.events import Events
from recsys.nn.history_columns import HistoryColumns
from recsys.protocols import Ranker
from recsys.types import Embedded


class SearchingRanker(Ranker):
    """Searches a history first, and reads only what it has kept.

    A batch whose histories have been cut to what `kept` gives, the ages of these events beside
    them, gets the same logits as the whole one.

    Attributes:
        columns: What it reads; search reads what is of attention.
        equal_columns: Features by whose equal vectors search finds events of the target's value.
    """

    reads_histories: ClassVar[bool] = True
    columns: HistoryColumns
    equal_columns: tuple[str, ...] = ()

    @property
    @abstractmethod
    def max_kept(self) -> int | None:
        """Events of a history that search keeps, at most; None: all."""

    @abstractmethod
    def kept(self, embedded: Embedded) -> Events:
        """The events that search keeps, best first.

        Args:
            embedded: No more is needed than `columns` of attention.
        """

    @abstractmethod
    def age_scores_A(self) -> Tensor | None:
        """What its age adds to an event's score, where scaled dot products rank events.

        The products are of what attention reads of event and target, over the root of its width.
        Of ages 0 ... the longest; None: search ranks in another way.
        """
