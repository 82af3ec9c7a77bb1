"""Search in two steps: candidates by a cheap score, the best of those by their vectors.

B users · C candidates · D width · W numbers that the first step reads · K places.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from recsys.nearest.exact import Best, Candidates, Scores, Seen, best_of, best_places

_CANDIDATES_PER_PLACE = 4  # as of the one index of FAISS that compares codes


class TwoSteps(ABC):
    """Search whose first step has cheap scores.

    Args:
        items: The candidates.

    Attributes:
        bytes_per_item: That the first step reads.
    """

    bytes_per_item: float

    def __init__(self, items: Candidates) -> None:
        self.items = items

    @abstractmethod
    def scores(self, users_BD: Tensor) -> Scores:
        """Of the first step."""

    def best_items(
        self,
        users_BD: Tensor,
        *,
        k: int,
        seen: Seen | None = None,
    ) -> Best:
        """About the best items, with exact scores.

        The arguments are those of `exact.best_items`.
        """
        places_BM, _ = best_places(
            self.scores(users_BD),
            self.items,
            k=_CANDIDATES_PER_PLACE * k,
            seen=seen,
        )
        return best_of(places_BM, users_BD, self.items, k=min(k, len(self.items)))

    def first_step(
        self,
        users_BD: Tensor,
        *,
        k: int,
        seen: Seen | None = None,
    ) -> Tensor:
        """Ids (B, K) that the first step alone puts first; 0 where none is left.

        The arguments are those of `exact.best_items`.
        """
        places_BK, _ = best_places(
            self.scores(users_BD),
            self.items,
            k=k,
            seen=seen,
        )
        return self.items.ids_of(places_BK)


class Funnel(TwoSteps):
    """Candidates by some numbers of their vectors.

    Args:
        items: The candidates.
        numbers: Which numbers the first step reads, from 0.

    Source: Kusupati et al., Matryoshka Representation Learning (2022),
    https://arxiv.org/abs/2205.13147, adaptive retrieval.
    """

    def __init__(self, items: Candidates, *, numbers: Sequence[int]) -> None:
        super().__init__(items)
        self._numbers = [*numbers]
        self._vectors_CW = items.vectors_CD[:, self._numbers].contiguous()
        self.bytes_per_item = float(len(self._numbers) * self._vectors_CW.element_size())

    def scores(self, users_BD: Tensor) -> Scores:
        """Dot products of those numbers."""
        users_BW = users_BD[:, self._numbers]
        return lambda part: users_BW @ self._vectors_CW[part].T
