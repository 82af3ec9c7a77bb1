"""How well a search over histories finds what matters.

B searches, each of one target in one history · L earlier clicks of all searches, packed, oldest
first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.types import Batch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Searches:
    """Targets with the histories that they are searched in, as categories.

    Attributes:
        targets_B: Category of each target.
        clicked_L: Category of each earlier click.
        lengths_B: Clicks of each history.
        labels_B: 0 or 1; NaN where there is none.
    """

    targets_B: Ints
    clicked_L: Ints
    lengths_B: Ints
    labels_B: Floats

    @classmethod
    def of_batch(cls, batch: Batch, *, target: str, clicked: str) -> Self:
        """The searches of a batch, without rows that only fill it up.

        Args:
            batch: Of a ranking task.
            target: Categorical feature of one value.
            clicked: Key `sequence.of` of a column of such a feature.
        """
        assert batch.ids is not None
        assert batch.sequences is not None
        counts_B = batch.weights_B.cpu().numpy() > 0
        history = batch.sequences[clicked]
        lengths_B = history.lengths().cpu().numpy().astype(np.int64)
        clicked_L = history.values().cpu().numpy()
        if batch.histories_B is not None:
            histories_B = batch.histories_B.cpu().numpy()
            starts_B = (np.cumsum(lengths_B) - lengths_B)[histories_B]
            lengths_B = lengths_B[histories_B]
            shifts_B = starts_B - np.cumsum(lengths_B) + lengths_B
            clicked_L = clicked_L[np.repeat(shifts_B, lengths_B) + np.arange(lengths_B.sum())]
        return cls(
            targets_B=batch.ids[target].values().cpu().numpy()[counts_B],
            clicked_L=clicked_L[np.repeat(counts_B, lengths_B)],
            lengths_B=lengths_B[counts_B],
            labels_B=batch.labels_BT[:, 0].double().cpu().numpy()[counts_B],
        )

    @property
    def rows_L(self) -> Ints:
        """Search of each click."""
        return np.repeat(np.arange(len(self.lengths_B)), self.lengths_B)

    @property
    def distances_L(self) -> Ints:
        """Place of each click counted from the target: 1 is the last click before it."""
        ends_B = np.cumsum(self.lengths_B)
        return np.repeat(ends_B, self.lengths_B) - np.arange(len(self.clicked_L))


def search_ndcg(
    scores_L: Floats, *, relevance_L: Floats, lengths_B: Ints, k: int = 20, max_unknown: int = 20
) -> Floats:
    """NDCG@k of each search, (B,): what the k best scored clicks hold, by the best k.

        DCG@k = sum_{r < k} relevance of the click at rank r / log2(r + 2)

    Clicks of one score share the mean of their relevance: that is what they hold on average, in
    whatever order they come. A click without a score (NaN) stands last. NaN for a search that has
    nothing to find, or too much of which nothing is known.

    Args:
        scores_L: Higher is found earlier.
        relevance_L: 0 or more; NaN where it is not known, which counts as 0.
        lengths_B: Clicks of each history.
        k: Clicks that are kept.
        max_unknown: Unknown clicks that a search may have.

    Source: Feng et al., DARE (2025), https://arxiv.org/abs/2410.02604, section 4.3.
    Differs from the paper: it breaks ties, and gives unknown clicks the relevance that few counts
    happen to give.
    """
    row_L = np.repeat(np.arange(len(lengths_B)), lengths_B)
    is_unknown_L = np.isnan(relevance_L)
    gains_L = np.where(is_unknown_L, 0.0, relevance_L)
    scores_L = np.where(np.isnan(scores_L), -np.inf, scores_L)
    order_L = np.lexsort((-scores_L, row_L))
    found_B = _dcg(_mean_of_ties(gains_L[order_L], scores_L[order_L], row_L), lengths_B, k=k)
    best_B = _dcg(gains_L[np.lexsort((-gains_L, row_L))], lengths_B, k=k)
    num_unknown_B = np.bincount(row_L, weights=is_unknown_L, minlength=len(lengths_B))
    counts_B = (best_B > 0) & (num_unknown_B <= max_unknown)
    return np.divide(found_B, best_B, out=np.full(len(lengths_B), np.nan), where=counts_B)


def _dcg(gains_L: Floats, lengths_B: Ints, *, k: int) -> Floats:
    """Of gains in the order of their ranks."""
    row_L = np.repeat(np.arange(len(lengths_B)), lengths_B)
    rank_L = np.arange(len(row_L)) - (np.cumsum(lengths_B) - lengths_B)[row_L]
    kept_L = np.where(rank_L < k, gains_L / np.log2(rank_L + 2), 0.0)
    return np.bincount(row_L, weights=kept_L, minlength=len(lengths_B)).astype(np.float64)


def _mean_of_ties(gains_L: Floats, scores_L: Floats, row_L: Ints) -> Floats:
    """Of gains in the order of their scores within each row."""
    starts_L = np.ones(len(row_L), dtype=bool)
    starts_L[1:] = (row_L[1:] != row_L[:-1]) | (scores_L[1:] != scores_L[:-1])
    tie_L = np.cumsum(starts_L) - 1
    return (np.bincount(tie_L, weights=gains_L) / np.bincount(tie_L))[tie_L]
