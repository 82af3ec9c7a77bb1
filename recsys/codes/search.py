"""Candidates by their codes, the best of them by their vectors."""

from __future__ import annotations

from torch import Tensor

from recsys.codes.codebook import Codebook, encoded
from recsys.codes.packed import symmetric_scores
from recsys.nearest.exact import Candidates, Scores
from recsys.nearest.two_steps import TwoSteps


class CodeSearch(TwoSteps):
    """Candidates by the symmetric score of codes.

    Args:
        items: The candidates.
        codebook: Of the whole catalogue.
    """

    def __init__(self, items: Candidates, *, codebook: Codebook) -> None:
        super().__init__(items)
        self._codebook = codebook
        self._codes_CY = codebook.items_VY[items.ids_C]
        self.bytes_per_item = float(self._codes_CY.shape[1])

    def scores(self, users_BD: Tensor) -> Scores:
        """Dot products of what the codes stand for."""
        users_BY = encoded(self._codebook.binariser, users_BD)
        num_steps = self._codebook.num_steps
        return lambda part: symmetric_scores(users_BY, self._codes_CY[part], num_steps=num_steps)
