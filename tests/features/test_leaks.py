import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.leaks import PureValue, category_auc, number_auc, pure_value


def auc_of_pairs(values, labels):
    """Share of (one, zero) pairs in the right order, ties a half."""
    ones = [v for v, y in zip(values, labels, strict=True) if y]
    zeros = [v for v, y in zip(values, labels, strict=True) if not y]
    wins = sum((a > b) + (a == b) / 2 for a in ones for b in zeros)
    return wins / (len(ones) * len(zeros))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=100, max_size=130))
def test_auc_of_numbers_is_that_of_all_pairs(rows):
    values, labels = zip(*rows, strict=True)
    found = number_auc(pl.Series(values), pl.Series(labels, dtype=pl.Float32))
    if len(set(labels)) < 2:
        assert found is None
    else:
        expected = auc_of_pairs(values, labels)
        assert found == pytest.approx(max(expected, 1 - expected))


def test_too_few_rows_and_rows_without_a_number():
    labels = pl.Series([0.0, 1.0] * 60)
    assert number_auc(labels.head(90), labels.head(90)) is None
    values = pl.Series([float("nan") if k % 3 == 0 else y for k, y in enumerate(labels)])
    assert number_auc(values.head(140), labels.head(140)) is None
    assert number_auc(pl.concat([values] * 2), pl.concat([labels] * 2)) == 1.0


def test_auc_of_categories():
    rng = np.random.default_rng(0)
    labels = pl.Series(rng.integers(0, 2, 4_000), dtype=pl.Float32)
    noise = pl.Series(rng.integers(0, 500, 4_000))
    assert category_auc(noise, labels) == pytest.approx(0.5, abs=0.05), "no credit for itself"
    ids = pl.Series(range(4_000))
    assert category_auc(ids, labels) == 0.5, "a value of one row is not known to the other half"
    telling = pl.Series([("a", "b")[int(y)] for y in labels])
    assert category_auc(telling, labels) == 1.0
    lists = pl.Series([["x", ("a", "b")[int(y)]] for y in labels])
    assert category_auc(lists, labels) == 1.0
    empty = pl.Series([[]] * 4_000, dtype=pl.List(pl.Int64))
    assert category_auc(empty, labels) == 0.5
    partly = pl.Series(["x" if k % 2 else t for k, t in enumerate(telling)])
    # Of pairs of a one and a zero, a quarter are both "x" and tie; all others are in order.
    assert category_auc(partly, labels) == pytest.approx(0.75 + 0.25 / 2, abs=0.02)


def test_values_that_say_it_all():
    labels = pl.Series([float(k % 2) for k in range(2_000)])
    values = pl.Series(["never" if k % 2 == 0 and k < 400 else "some" for k in range(2_000)])
    assert pure_value(values, labels) == PureValue("never", 0.1, 0)
    assert pure_value(values, 1 - labels) == PureValue("never", 0.1, 1)
    rare = pl.Series(["never" if k % 2 == 0 and k < 30 else "some" for k in range(2_000)])
    assert pure_value(rare, labels) is None
    assert pure_value(values, pl.Series([1.0] * 2_000)) is None
    missing = pl.Series([None if k % 2 == 0 and k < 400 else "some" for k in range(2_000)])
    assert pure_value(missing, labels) == PureValue(None, 0.1, 0)


def test_a_value_is_not_pure_by_chance():
    """With one positive in a hundred, fifty negatives of a value say nothing."""
    labels = pl.Series([float(k % 100 == 0) for k in range(5_000)])
    values = pl.Series(["seldom" if 100 < k < 160 else "some" for k in range(5_000)])
    assert pure_value(values, labels) is None
