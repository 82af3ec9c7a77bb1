"""NDCG of the searches of a trained ranker, by what is held to be relevant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from features.columns import sequence_column
from recsys.metrics.mutual_information import MutualInformation, mutual_information
from recsys.metrics.searches import Floats, Searches, search_ndcg
from recsys.nn.cutting import to_own_histories
from recsys.run_data import spread_batches
from recsys.search.history_run import HistoryRun
from recsys.types import Batch

Relevance = Callable[[Searches], Floats]
Split = Literal["val", "test"]


@dataclass(frozen=True)
class SearchQuality:
    """How well one run searches, by one truth.

    Attributes:
        run: Its name.
        truth: What relevance was taken from.
        ndcg: Mean NDCG of the searches; NaN where there is none.
        random: That of the events in random order: its expectation.
        recent: That of the most recent events.
        num_searches: Of which something is known, and that have something to find.
    """

    run: str
    truth: str
    ndcg: float
    random: float
    recent: float
    num_searches: int


def measure_searches(
    run: HistoryRun,
    truths: Mapping[str, Relevance],
    *,
    category: str,
    k: int,
    split: Split,
    max_examples: int,
) -> list[SearchQuality]:
    """NDCG@K of a run's searches, by each truth.

    Args:
        run: The run.
        truths: Relevance of events, by name.
        category: Column of the history that truths are about.
        k: Events that count.
        split: Rows to search for.
        max_examples: Of these, spread evenly over all.

    Raises:
        DataError: the split is empty.
    """
    run.data.require_examples(split)
    found: dict[str, list[Floats]] = {name: [] for name in truths}
    for shared in spread_batches(run.data, split, max_examples=max_examples):
        batch = to_own_histories(shared)
        searches = searches_of(run, batch, category=category)
        orders = (
            scores_of(run, batch),
            np.zeros(len(searches.clicked_L)),  # those of one score are in random order
            -searches.distances_L.astype(np.float64),
        )
        for name, relevance in truths.items():
            relevance_L = relevance(searches)
            ndcg = [
                search_ndcg(scores_L, relevance_L=relevance_L, lengths_B=searches.lengths_B, k=k)
                for scores_L in orders
            ]
            found[name].append(np.stack(ndcg, axis=1))
    return [_mean(run.name, name, parts, max_examples) for name, parts in found.items()]


def _mean(run: str, truth: str, parts: Sequence[Floats], max_examples: int) -> SearchQuality:
    ndcg_BO = np.concatenate(parts)[:max_examples]
    known_BO = ndcg_BO[~np.isnan(ndcg_BO).any(axis=1)]
    means = known_BO.mean(axis=0).tolist() if len(known_BO) else [np.nan] * 3
    return SearchQuality(run, truth, *means, num_searches=len(known_BO))


def scores_of(run: HistoryRun, batch: Batch) -> Floats:
    """What search ranks events by, (L,), oldest first; rows of weight 0 left out.

    Args:
        run: The run.
        batch: Every example has a history of its own.
    """
    with torch.no_grad():
        embedded = run.task.embedder(batch)
        events, ranks_BW = run.ranker.ranks(embedded)
    first = run.ranker.columns.events("attention")[0]
    lengths_B = embedded.sequences[first].lengths_B
    scores_L = torch.full((int(lengths_B.sum()),), torch.nan, dtype=torch.float64)
    scores_L[events.token_BK[events.is_event_BK]] = ranks_BW[events.is_event_BK].double()
    return scores_L[(batch.weights_B > 0).repeat_interleave(lengths_B)].numpy()


def searches_of(run: HistoryRun, batch: Batch, *, category: str) -> Searches:
    """The searches of a batch; rows of weight 0 left out."""
    clicked = sequence_column(run.ranker.columns.sequence, category)
    return Searches.of_batch(batch, target=category, clicked=clicked)


def information_of_training(
    run: HistoryRun, *, category: str, edges: Sequence[int]
) -> MutualInformation:
    """Mutual information of events and labels over the training rows of a run.

    Args:
        run: The run.
        category: Column of the history that is counted.
        edges: Of the buckets of distances.

    Raises:
        RunConfigError: the edges do not rise.
    """
    num_categories = run.data.schema.num_ids(category)
    assert num_categories is not None

    def read() -> Iterator[Searches]:
        for batch in run.data.train_dataloader():
            yield searches_of(run, batch, category=category)

    return mutual_information(read, num_categories=num_categories, edges=edges)
