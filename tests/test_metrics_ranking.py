import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc

from recsys.metrics import RankingMetrics


def measure(logits, labels, *, weights=None, users=None, batches=1):
    metric, size = RankingMetrics(), len(logits)
    columns = (
        torch.tensor(logits, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.float32),
        torch.tensor([1.0] * size if weights is None else weights),
        torch.tensor([-1] * size if users is None else users),
    )
    for parts in zip(*(column.tensor_split(batches) for column in columns), strict=True):
        metric.update(*parts)
    return {name: value.item() for name, value in metric.compute().items()}


def plain_auc(rows):
    """Share of (positive, negative) pairs in the right order; rows of (logit, label, weight)."""
    won = total = 0.0
    for high, _, high_weight in (row for row in rows if row[1] == 1):
        for low, _, low_weight in (row for row in rows if row[1] == 0):
            total += high_weight * low_weight
            won += high_weight * low_weight * (high > low or 0.5 * (high == low))
    return won / total if total else math.nan


def test_by_hand():
    found = measure([2.0, 0.0, 0.0, -1.0], [1, 1, 0, 0], users=[7, 7, 7, 3])
    losses = [math.log1p(math.exp(-2)), math.log(2), math.log(2), math.log1p(math.exp(-1))]
    sigmoids = [1 / (1 + math.exp(-logit)) for logit in (2, 0, 0, -1)]
    assert found == pytest.approx(
        {
            "auc": 3.5 / 4,
            "logloss": sum(losses) / 4,
            "gauc": 1.5 / 2,  # user 3 has one class only
            "normalized_entropy": sum(losses) / 4 / math.log(2),
            "calibration": sum(sigmoids) / 2,
            "num_examples": 4,
        }
    )


rows = st.lists(
    st.tuples(
        st.sampled_from([-2.0, -0.5, 0.0, 0.5, 30.0]),  # few values, so ties are frequent
        st.sampled_from([0, 1, math.nan]),
        st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        st.integers(-1, 3),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(rows, st.integers(1, 3))
def test_auc_and_gauc_against_loops(rows, batches):
    logits, labels, weights, users = ([row[i] for row in rows] for i in range(4))
    found = measure(logits, labels, weights=weights, users=users, batches=batches)
    counted = [row for row in rows if row[2] > 0 and not math.isnan(row[1])]
    assert found["num_examples"] == len(counted)
    assert found["auc"] == pytest.approx(plain_auc([row[:3] for row in counted]), nan_ok=True)

    won = total = 0.0
    for user in {row[3] for row in counted if row[3] >= 0}:
        own = [row[:3] for row in counted if row[3] == user]
        if not math.isnan(auc := plain_auc(own)):
            weight = sum(row[2] for row in own)
            won, total = won + auc * weight, total + weight
    assert found["gauc"] == pytest.approx(won / total if total else math.nan, nan_ok=True)


@settings(deadline=None)
@given(rows)
def test_means_against_loops(rows):
    counted = [row for row in rows if row[2] > 0 and not math.isnan(row[1])]
    logits, labels, weights, users = ([row[i] for row in rows] for i in range(4))
    found = measure(logits, labels, weights=weights, users=users)
    total = sum(row[2] for row in counted)
    if not total:
        assert math.isnan(found["logloss"])
        return

    def mean(of):
        return sum(of(logit, label) * weight for logit, label, weight, _ in counted) / total

    logloss = mean(lambda z, y: math.log1p(math.exp(-z if y else z)))
    base = mean(lambda z, y: y)
    entropy = -sum(p * math.log(p) for p in (base, 1 - base) if p)
    predicted = mean(lambda z, y: 1 / (1 + math.exp(-z)))
    assert found["logloss"] == pytest.approx(logloss)
    expected_entropy = logloss / entropy if entropy else math.nan
    assert found["normalized_entropy"] == pytest.approx(expected_entropy, nan_ok=True)
    expected_calibration = predicted / base if base else math.nan
    assert found["calibration"] == pytest.approx(expected_calibration, nan_ok=True)


def test_auc_of_many_examples_against_torchmetrics():
    torch.manual_seed(0)
    logits, labels = torch.randn(20_000).round(decimals=2), torch.randint(0, 2, (20_000,))
    metric = RankingMetrics()
    metric.update(logits, labels, torch.ones(20_000), torch.full((20_000,), -1))
    found = metric.compute()["auc"].item()
    assert found == pytest.approx(binary_auroc(logits.sigmoid(), labels).item(), abs=1e-6)


def test_constant_scorer_is_one_half():
    assert measure([3.0] * 4, [0, 1, 1, 0], users=[1, 1, 1, 1])["auc"] == 0.5


def test_nan_prediction_shows():
    found = measure([math.nan, 1.0, 2.0], [0, 1, 0], users=[0, 0, 0])
    assert math.isnan(found["auc"])
    assert math.isnan(found["gauc"])
    assert math.isnan(found["logloss"])


def test_saturated_predictions_keep_their_order():
    """Their sigmoids are both 1 in float32."""
    assert measure([40.0, 50.0], [0, 1])["auc"] == 1.0


def test_nothing_measured():
    never = RankingMetrics()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        found = never.compute()
    assert {name for name, value in found.items() if value.isnan()} == {*found} - {"num_examples"}
    assert measure([], []) == pytest.approx({k: v.item() for k, v in found.items()}, nan_ok=True)
