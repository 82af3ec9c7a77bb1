import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import RunConfigError
from recsys.metrics import CatalogueMetrics, rank_targets, remove_seen, top_k

NUM_ITEMS = 7
score = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
example = st.tuples(
    st.lists(score, min_size=NUM_ITEMS, max_size=NUM_ITEMS),
    st.integers(0, NUM_ITEMS - 1),
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9),
)


def candidates(examples):
    return remove_seen(
        torch.tensor([scores for scores, _, _ in examples]),
        torch.tensor([target for _, target, _ in examples]),
        torch.tensor([item for _, _, seen in examples for item in seen], dtype=torch.long),
        torch.tensor([len(seen) for _, _, seen in examples]),
    )


@settings(deadline=None)
@given(st.lists(example, min_size=1, max_size=6))
def test_ranks_and_lists_against_loops(examples):
    candidates_BV = candidates(examples)
    ranks_B = rank_targets(candidates_BV, torch.tensor([target for _, target, _ in examples]))
    top_BK = top_k(candidates_BV, 4)
    for (scores, target, seen), rank, top in zip(examples, ranks_B, top_BK, strict=True):
        left = [i for i in range(1, NUM_ITEMS) if i not in seen or i == target]
        above = [i for i in left if i != target and scores[i] >= scores[target]]
        assert rank == (len(above) if target else -1)
        listed = [item for item in top.tolist() if item]
        assert len(set(listed)) == min(4, len(left))
        assert set(listed) <= set(left)
        best = sorted((scores[i] for i in left), reverse=True)[:4]
        assert [scores[i] for i in listed] == best


def test_scores_stay_as_they_are():
    scores_BV = torch.randn(2, NUM_ITEMS)
    copy_BV = scores_BV.clone()
    remove_seen(scores_BV, torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([1, 0]))
    assert torch.equal(scores_BV, copy_BV)


@pytest.mark.parametrize("constant", [0.0, math.nan, -math.inf])
def test_constant_scorer_hits_nothing(constant):
    targets_B = torch.tensor([3, 5])
    scores_BV = torch.full((2, 50), constant)
    candidates_BV = remove_seen(scores_BV, targets_B, torch.tensor([1, 2]), torch.tensor([2, 0]))
    ranks_B = rank_targets(candidates_BV, targets_B)
    assert (ranks_B >= 46).all()


def test_metrics_by_hand():
    metric = CatalogueMetrics(ks=(1, 3), num_items=6)
    metric.update(torch.tensor([0, 2]), torch.tensor([[1, 2, 3], [1, 3, 2]]))
    metric.update(torch.tensor([3, -1]), torch.tensor([[1, 4, 0], [2, 1, 3]]))
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(
        {
            "hr@1": 1 / 4,
            "ndcg@1": 1 / 4,
            "mrr@1": 1 / 4,
            "coverage@1": 2 / 5,
            "hr@3": 2 / 4,
            "ndcg@3": (1 + 1 / 2) / 4,
            "mrr@3": (1 + 1 / 3) / 4,
            "coverage@3": 4 / 5,
            "num_examples": 4,
        }
    )


def test_nothing_measured():
    metric = CatalogueMetrics(num_items=20)
    metric.update(torch.zeros(0, dtype=torch.long), torch.zeros(0, 10, dtype=torch.long))
    found = metric.compute()
    assert found["hr@10"].isnan()
    assert found["coverage@10"] == 0


def test_list_longer_than_the_catalogue():
    with pytest.raises(RunConfigError) as caught:
        CatalogueMetrics(ks=(5, 10), num_items=6)
    assert str(caught.value) == (
        "CatalogueMetrics.ks: no length of a list of 5 items, got [10]; allowed 1 to 5; "
        "choose smaller ones"
    )
