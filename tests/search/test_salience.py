from dataclasses import replace
from itertools import product

import pytest
import torch
from search.test_gradients import Linear, random_sample

from recsys.search.salience import auc, salience

RANKER = Linear({"a": [1.0, 0.0, 2.0], "b": [0.0, 0.7, 0.0]})


def labelled(size=40):
    """Rows whose label is what the ranker says."""
    sample = random_sample("abc", size=size)
    with torch.no_grad():
        logits_E = RANKER(sample.embedded)[:, 0]
    return replace(sample, labels_E=(logits_E > 0.3).float())


def won_pairs(scores, labels):
    positive = [s for s, y in zip(scores, labels, strict=True) if y == 1]
    negative = [s for s, y in zip(scores, labels, strict=True) if y == 0]
    won = [(p > n) + (p == n) / 2 for p, n in product(positive, negative)]
    return sum(won) / len(won)


def test_the_drop_is_that_of_the_shuffled_column():
    sample = labelled()
    assert auc(RANKER, sample) == 1
    whole, drops = salience(RANKER, sample, {"a": ["a"], "b": ["b"], "c": ["c"]}, seed=3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    fields = sample.embedded.fields
    for key in "ab":
        shuffled = {k: v[order] if k == key else v for k, v in fields.items()}
        logits = sum(shuffled[k] @ w for k, w in RANKER.weights.items())
        wanted = 1 - won_pairs(logits.tolist(), sample.labels_E.tolist())
        assert drops[key] == pytest.approx(wanted)
    assert whole == 1
    assert drops["a"] > drops["b"] > 0.01
    assert drops["c"] == 0


def test_columns_of_one_feature_are_shuffled_together():
    sample = labelled()
    _, drops = salience(RANKER, sample, {"all": ["a", "b"]}, seed=3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    logits = sum(sample.embedded.fields[k] @ w for k, w in RANKER.weights.items())[order]
    wanted = 1 - won_pairs(logits.tolist(), sample.labels_E.tolist())
    assert drops["all"] == pytest.approx(wanted)


def test_the_seed_decides():
    sample = labelled()
    first, again, other = (salience(RANKER, sample, {"a": ["a"]}, seed=s)[1] for s in (0, 0, 1))
    assert first == again != other
