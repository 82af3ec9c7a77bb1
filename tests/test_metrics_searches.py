"""NDCG of searches by hand and by plain loops; mutual information by hand and by plain loops."""

from collections import Counter
from itertools import pairwise, permutations
from math import isnan, log2, nan

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import RunConfigError
from recsys.metrics.mutual_information import information, mutual_information
from recsys.metrics.relevance import TrueRelevance
from recsys.metrics.searches import Searches, search_ndcg
from recsys.types import Batch


def ndcg(scores, relevance, lengths=None, **options):
    lengths = [len(scores)] if lengths is None else lengths
    return search_ndcg(
        np.array(scores, dtype=float),
        relevance_L=np.array(relevance, dtype=float),
        lengths_B=np.array(lengths, dtype=np.int64),
        **options,
    )


# ---------------------------------------------------------------------------------------- NDCG
@pytest.mark.parametrize(
    ("scores", "relevance", "k", "expected"),
    [
        ([3, 1, 2], [0, 1, 3], 2, (3 / log2(3)) / (3 + 1 / log2(3))),
        ([3, 1, 2], [0, 1, 3], 1, 0),
        ([3, 1, 2], [3, 0, 1], 3, 1),
        ([3, 1, 2], [3, 0, 1], 9, 1),
        ([5, 5], [2, 0], 1, 0.5),
        ([5, 5, 9], [0, 4, 1], 2, (1 + 2 / log2(3)) / (4 + 1 / log2(3))),
        ([nan, 0], [1, 0], 1, 0),
        ([nan, -np.inf], [1, 0], 1, 0.5),
        ([2, 1], [nan, 1], 2, 1 / log2(3)),
        ([2, 1], [0, 0], 2, nan),
        ([], [], 2, nan),
    ],
)
def test_ndcg_by_hand(scores, relevance, k, expected):
    assert ndcg(scores, relevance, k=k) == pytest.approx([expected], nan_ok=True)


def test_searches_are_apart_and_too_much_unknown_is_no_search():
    found = ndcg([1, 2, 9, 8, 7, 1], [1, 0, 0.5, nan, nan, 3], [2, 0, 3, 1], k=1, max_unknown=1)
    assert found == pytest.approx([0, nan, nan, 1], nan_ok=True)


def loop_ndcg(scores, relevance, k):
    """The mean over all orders of those with one score."""
    ideal = sum(g / log2(r + 2) for r, g in enumerate(sorted(relevance, reverse=True)[:k]))
    orders = [
        order
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    sums = [sum(relevance[i] / log2(r + 2) for r, i in enumerate(order[:k])) for order in orders]
    return sum(sums) / len(sums) / ideal if ideal else nan


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=5), max_size=4),
    st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_ndcg_is_the_mean_over_the_orders_of_ties(searches, k):
    clicks = [click for search in searches for click in search]
    found = ndcg(
        [score for score, _ in clicks], [gain for _, gain in clicks], list(map(len, searches)), k=k
    )
    expected = [loop_ndcg([s for s, _ in one], [g for _, g in one], k) for one in searches]
    assert found == pytest.approx(expected, nan_ok=True)


# ------------------------------------------------------------------------------------ searches
def searches_of(targets, histories, labels=None):
    return Searches(
        targets_B=np.array(targets, dtype=np.int64),
        clicked_L=np.array([b for history in histories for b in history], dtype=np.int64),
        lengths_B=np.array([len(history) for history in histories], dtype=np.int64),
        labels_B=np.array(labels or [0.0] * len(targets)),
    )


def test_distances_count_from_the_target():
    searches = searches_of([0, 0, 0], [[7, 8, 9], [], [7]])
    assert searches.distances_L.tolist() == [3, 2, 1, 1]
    assert searches.rows_L.tolist() == [0, 0, 0, 2]


def test_searches_of_a_batch_leave_out_what_fills_it_up():
    none, kjt = torch.zeros(0, dtype=torch.int64), KeyedJaggedTensor.from_lengths_sync
    batch = Batch(
        ids=kjt(["kind"], torch.tensor([4, 5, 6]), torch.tensor([1, 1, 1])),
        sequences=kjt(["h.kind"], torch.tensor([1, 2, 3]), torch.tensor([2, 1, 0])),
        dense_BN=torch.zeros(3, 0),
        labels_BT=torch.tensor([[1.0], [0.0], [nan]]),
        weights_B=torch.tensor([1.0, 0.0, 2.0]),
        users_B=torch.zeros(3, dtype=torch.int64),
        targets_B=none,
        seen_values=none,
        seen_lengths_B=none,
    )
    found = Searches.of_batch(batch, target="kind", clicked="h.kind")
    assert found.targets_B.tolist() == [4, 6]
    assert found.clicked_L.tolist() == [1, 2]
    assert found.lengths_B.tolist() == [2, 0]
    assert found.labels_B == pytest.approx([1.0, nan], nan_ok=True)
    batch.histories_B = torch.tensor([1, 0, 0])
    shared = Searches.of_batch(batch, target="kind", clicked="h.kind")
    assert shared.clicked_L.tolist() == [3, 1, 2]
    assert shared.lengths_B.tolist() == [1, 2]


def test_true_relevance_by_hand(tmp_path):
    pl.DataFrame(
        {"target_category": [2, 0], "clicked_category": [1, 0], "attraction": [0.5, 1.0]}
    ).write_parquet(tmp_path / "attraction.parquet")
    pl.DataFrame({"distance": [2, 1], "decay": [0.5, 1.0]}).write_parquet(
        tmp_path / "decay.parquet"
    )
    truth = TrueRelevance.read(tmp_path)
    # 7 is no category: 0 * 3 + 7 would be the key of (2, 1).
    found = truth.of(searches_of([2, 0, 1, 9], [[1, 1, 2, 1], [0, 0, 7], [1], [1]]))
    assert found.tolist() == [0, 0, 0, 0.5, 0, 0.5, 0, 0, 0]
    empty = truth.of(searches_of([], []))
    assert len(empty) == 0


# -------------------------------------------------------------------------- mutual information
def test_information_by_hand():
    tables = np.array([[[40, 20], [10, 30]], [[10, 20], [30, 60]], [[5, 0], [0, 5]]])
    #  .4 log2(.4/.3) + .2 log2(.2/.3) + .1 log2(.1/.2) + .3 log2(.3/.2)
    assert information(tables) == pytest.approx([0.1245112, 0, 1], abs=1e-6)


def loop_information(log, t, b, distances, *, min_examples, min_count):
    """One cell; None where there is too little."""
    labels = [y for target, _, y in log if target == t and not isnan(y)]
    samples = Counter(
        (len(history) >= d and history[-d] == b, y)
        for target, history, y in log
        for d in distances
        if target == t and not isnan(y)
    )
    if len(labels) < min_examples or min(samples[True, 0], samples[True, 1]) < min_count:
        return None
    n = samples.total()
    px, py = Counter(), Counter()
    for (x, y), count in samples.items():
        px[x] += count / n
        py[y] += count / n
    return sum(c / n * log2(c / n / (px[x] * py[y])) for (x, y), c in samples.items())


@pytest.mark.parametrize("max_bytes", [1, 100, 1 << 20])
@pytest.mark.parametrize("edges", [(1, 2, 3, 4), (1, 3, 9), (2, 4)])
def test_mutual_information_equals_plain_loops(edges, max_bytes):
    rng = np.random.default_rng(0)
    log = []
    for _ in range(300):
        history = rng.integers(0, 3, size=rng.integers(0, 6)).tolist()
        target = int(rng.choice(4, p=[0.5, 0.3, 0.18, 0.02]))
        likely = 0.9 if history and history[-1] == target else 0.3
        label = nan if rng.random() < 0.1 else float(rng.random() < likely)
        log.append((target, history, label))
    batches = [
        searches_of(*map(list, zip(*log[i : i + 70], strict=True))) for i in range(0, 300, 70)
    ]
    limits = {"min_examples": 40, "min_count": 4}
    found = mutual_information(
        lambda: batches, num_categories=4, edges=edges, max_bytes=max_bytes, **limits
    )
    cells = {(t, b, i): mi for t, b, i, *_, mi in found.cells.rows()}
    expected = {
        (t, b, i): value
        for t in range(4)
        for b in range(4)
        for i in range(len(edges) - 1)
        if (value := loop_information(log, t, b, range(edges[i], edges[i + 1]), **limits))
        is not None
    }
    assert len(expected) > 4
    assert list(cells) == list(expected)
    assert list(cells.values()) == pytest.approx(list(expected.values()))
    relevance = np.concatenate([found.of(batch) for batch in batches])
    bucket_of = {d: i for i, (low, high) in enumerate(pairwise(edges)) for d in range(low, high)}
    wanted = [
        cells.get((t, b, bucket_of.get(d)), nan)
        for t, history, _ in log
        for d, b in zip(range(len(history), 0, -1), history, strict=True)
    ]
    assert relevance == pytest.approx(wanted, nan_ok=True)
    assert np.isnan(relevance).any()


def test_a_log_that_is_too_small_has_no_cells():
    searches = searches_of([0, 1], [[0], []], [1.0, 0.0])
    found = mutual_information(lambda: [searches], num_categories=2, edges=(1, 2))
    assert found.cells.is_empty()
    assert np.isnan(found.of(searches)).all()


@pytest.mark.parametrize("edges", [(1,), (0, 2), (1, 3, 3)])
def test_edges_must_rise(edges):
    with pytest.raises(RunConfigError, match=r"edges: must rise from 1 or more, got \["):
        mutual_information(lambda: [], num_categories=2, edges=edges)
