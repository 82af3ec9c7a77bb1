"""Which old id each new id is."""

import polars as pl
import pytest
from migration.made import schema

from features.schema import FeatureSchema, Vocabulary
from recsys.migration.ids import id_sources

NAMES = {"n": "n"}
LARGE = 2**63 + 5


def values(known, dtype):
    """The schema of a feature with values of a type."""
    feature_set = schema("features: [{name: n, kind: categorical}]").feature_set
    counts = pl.Series(range(len(known), 0, -1), dtype=pl.Int64)
    vocabulary = Vocabulary(pl.Series(known, dtype=dtype), counts)
    return FeatureSchema(
        feature_set=feature_set, vocabularies={"n": vocabulary}, boundaries={}, moments={}
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (([7, 3], pl.Int64), ([3, 5], pl.Int64), {0: 0, 1: 2}),
        (([7, 3], pl.UInt64), ([-1, 3], pl.Int64), {0: 0, 2: 2}),
        (([7, 3], pl.Int64), ([LARGE, 7], pl.UInt64), {0: 0, 2: 1}),
        (([7, LARGE], pl.UInt64), ([LARGE, 7], pl.UInt64), {0: 0, 1: 2, 2: 1}),
        ((["1", "0"], pl.String), ([1, 0], pl.Int64), None),
        (([1, 0], pl.Int64), (["1", "0"], pl.String), None),
        (([True, False], pl.Boolean), ([1, 0], pl.Int64), None),
        (([True, False], pl.Boolean), ([False], pl.Boolean), {0: 0, 1: 2}),
    ],
)
def test_values_are_found_again_among_those_of_their_kind(old, new, expected):
    found = id_sources(values(*old), values(*new), feature="n", names=NAMES)
    assert (found is None) == (expected is None)
    if found is not None:
        assert dict(zip(found.new_S.tolist(), found.old_S.tolist(), strict=True)) == expected
        assert (found.num_old, found.num_new) == (len(old[0]) + 1, len(new[0]) + 1)


def ranges(boundaries):
    """The schema of a feature that is cut by quantiles, which may leave no boundary."""
    [line] = schema("features: [{name: n, kind: bucketized, quantiles: 5}]").feature_set.features
    of = schema("features: [{name: n, kind: bucketized, boundaries: [0]}]")
    feature_set = of.feature_set.model_copy(update={"features": (line,)})
    return FeatureSchema(
        feature_set=feature_set, vocabularies={}, boundaries={"n": tuple(boundaries)}, moments={}
    )


def shares(old, new):
    """By new range, what each old one counts in its mean."""
    found = id_sources(ranges(old), ranges(new), feature="n", names=NAMES)
    assert found is not None
    assert (found.num_old, found.num_new) == (len(old) + 1, len(new) + 1)
    assert found.is_identity == (list(old) == list(new))
    assert list(found.new_S) == sorted(found.new_S)
    by_new = {}
    for here, there, weight in zip(found.new_S, found.old_S, found.weight_S, strict=True):
        by_new.setdefault(int(here), {})[int(there)] = float(weight)
    return [
        {there: weight / sum(by_new[here].values()) for there, weight in by_new[here].items()}
        for here in range(len(new) + 1)
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([20, 40], [20, 40], [{0: 1}, {1: 1}, {2: 1}]),
        # Within old ones: each is the old one.
        ([20], [10, 20, 50], [{0: 1}, {0: 1}, {1: 1}, {1: 1}]),
        # An open range counts like a closed one of 20.
        ([20, 40], [40], [{0: 1 / 2, 1: 1 / 2}, {2: 1}]),
        ([20, 40], [20], [{0: 1}, {1: 1 / 2, 2: 1 / 2}]),
        # Pieces of 20 and 60, 40 in the mean.
        ([20, 40], [100], [{0: 2 / 6, 1: 1 / 6, 2: 3 / 6}, {2: 1}]),
        ([20, 40], [-40], [{0: 1}, {0: 3 / 6, 1: 1 / 6, 2: 2 / 6}]),
        # Pieces of 1, 3 and 2, 2 in the mean.
        ([1, 5], [2, 7], [{0: 2 / 3, 1: 1 / 3}, {1: 3 / 5, 2: 2 / 5}, {2: 1}]),
        # The unit is of no matter.
        ([1e-60, 5e-60], [2e-60, 7e-60], [{0: 2 / 3, 1: 1 / 3}, {1: 3 / 5, 2: 2 / 5}, {2: 1}]),
        # No boundary is left, or was there.
        ([], [], [{0: 1}]),
        ([], [3, 4], [{0: 1}, {0: 1}, {0: 1}]),
        ([3], [], [{0: 1 / 2, 1: 1 / 2}]),
        ([3, 5], [], [{0: 1 / 3, 1: 1 / 3, 2: 1 / 3}]),
    ],
)
def test_ranges_are_the_mean_of_what_they_cover(old, new, expected):
    for got, wanted in zip(shares(old, new), expected, strict=True):
        assert got == pytest.approx(wanted)
