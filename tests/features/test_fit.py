import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import SPLIT
from features.errors import DataError
from features.fit import fit_schema

QUICK = settings(deadline=None, max_examples=40)
SPLITS = ["train", "train", "val", None]


def mistakes(feature_set, frame) -> list[str]:
    with pytest.raises(DataError) as caught:
        fit_schema(feature_set, frame)
    return list(caught.value.mistakes)


@pytest.mark.parametrize(
    ("encoding", "values", "counts"),
    [
        ("{}", ["b", "a", "é", ""], [3, 2, 2, 1]),
        ("{min_count: 2}", ["b", "a", "é"], [3, 2, 2]),
        ("{max_size: 2}", ["b", "a"], [3, 2]),
        ("{min_count: 9}", [], []),
    ],
)
def test_vocabulary_order_and_limits(feature_file, events, encoding, values, counts):
    feature_set = feature_file(f"name: a, kind: categorical, encoding: {encoding}")
    raw = ["é", "b", "a", "b", "", "b", "é", "a", "z", "z", "z", "z"]
    frame = events({"a": raw}, split=["train"] * 8 + ["val", "test", None, None])
    vocabulary = fit_schema(feature_set, frame).vocabularies["a"]
    assert vocabulary.values.to_list() == values
    assert vocabulary.counts.to_list() == counts
    assert vocabulary.counts.dtype == pl.Int64


@QUICK
@given(st.lists(st.tuples(st.lists(st.one_of(st.none(), st.integers(-3, 300)), max_size=3),
                          st.sampled_from(SPLITS)), min_size=1))  # fmt: skip
def test_vocabulary_of_lists_against_brute_force(feature_file, events, rows):
    feature_set = feature_file("name: a, kind: categorical, fill: 7")
    raw = [values for values, _ in rows]
    split = [split for _, split in rows[:-1]] + ["train"]
    frame = events({"a": raw}, split=split, schema={"a": pl.List(pl.Int16)})
    vocabulary = fit_schema(feature_set, frame).vocabularies["a"]
    training = [vs for vs, name in zip(raw, split, strict=True) if name == "train"]
    counts = Counter(7 if v is None else v for vs in training for v in vs)
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    found = zip(vocabulary.values.to_list(), vocabulary.counts.to_list(), strict=True)
    assert list(found) == expected


def test_label_where_does_not_hide_events_from_vocabularies(feature_file, events):
    feature_set = feature_file(
        "name: a, kind: categorical", top="label: {name: y, expr: r > 3, where: r <> 3}"
    )
    schema = fit_schema(feature_set, events({"a": [1, 1, 2], "r": [3, 3, 5]}))
    assert schema.vocabularies["a"].values.to_list() == [1, 2]


def test_fill_counts_as_a_value_and_like_shares(feature_file, events):
    feature_set = feature_file(
        "name: a, kind: categorical, fill: 5",
        "name: b, kind: categorical, like: a",
        "name: c, kind: categorical, split: '|'",
    )
    data = {"a": [None, 1, None], "b": [9, 9, 9], "c": ["x||y", None, "y|"]}
    schema = fit_schema(feature_set, events(data))
    assert schema.vocabularies["a"].values.to_list() == [5, 1]
    assert schema.vocabulary_of("b") is schema.vocabularies["a"]
    assert schema.vocabularies["c"].values.to_list() == ["y", "x"]
    assert schema.multi_valued == ("c",)
    assert [schema.num_ids(name) for name in "abc"] == [3, 3, 3]


def test_moments_by_hand(feature_file, events):
    feature_set = feature_file(
        "name: x, kind: dense, transform: log1p, clip: [0.5, 2], fill: 0",
        "name: m, kind: dense, column: x, fill: mean",
        "name: constant, kind: dense, expr: y * 0 + 3",
    )
    data = {"x": [1.0, None, math.e**3, float("nan"), 9.0], "y": [1, 2, 3, 4, 5]}
    schema = fit_schema(feature_set, events(data, split=["train"] * 4 + ["val"]))
    values = np.array([math.log(2), 0.5, 2.0, 0.5])
    assert schema.moments["x"].mean == pytest.approx(values.mean(), rel=1e-11)
    assert schema.moments["x"].std == pytest.approx(values.std(), rel=1e-8)
    raw = np.array([1.0, math.e**3])
    assert schema.moments["m"].mean == pytest.approx(raw.mean(), rel=1e-11)
    assert schema.moments["m"].raw_mean == pytest.approx(raw.mean(), rel=1e-11)
    assert (schema.moments["constant"].mean, schema.moments["constant"].std) == (3, 1)


@QUICK
@given(st.lists(st.integers(0, 9), min_size=1), st.integers(2, 6))
def test_quantiles_against_sorted_ranks(feature_file, events, values, num_ranges):
    feature_set = feature_file(f"name: a, kind: bucketized, quantiles: {num_ranges}")
    ordered = sorted(values)
    ranks = [math.ceil(k * len(values) / num_ranges) for k in range(1, num_ranges)]
    cuts = {ordered[rank] for rank in ranks if rank < len(values)} - {ordered[0]}
    schema = fit_schema(feature_set, events({"a": values}))
    assert schema.boundaries["a"] == tuple(sorted(cuts))


def test_given_boundaries_are_kept(feature_file, events):
    feature_set = feature_file("name: a, kind: bucketized, boundaries: [-1, 2.5]")
    assert fit_schema(feature_set, events({"a": [0]})).boundaries == {"a": (-1, 2.5)}


def test_every_bad_value_is_reported_at_once(feature_file, events):
    feature_set = feature_file(
        "name: c, kind: categorical",
        "name: l, kind: categorical",
        "name: i, kind: categorical, encoding: {kind: identity, size: 3}",
        "name: d, kind: dense, transform: sqrt",
        "name: b, kind: bucketized, boundaries: [1], fill: 0",
        "name: v, kind: vector, size: 2",
        top="entity: {user: u, item: u, time: t}\nlabel: {name: y, where: d <> 4}\nweight: w\n"
        "split: {kind: column, column: s}",
    )
    nan, inf = float("nan"), float("inf")
    data = {
        "u": [None, 1, 1, 1],
        "t": [1, 1, None, None],
        "c": ["a", None, "é", "b"],
        "l": [[1], None, [], [1, None]],
        "i": [2, 3, -1, 0],
        "d": [4, nan, -1.5, inf],
        "b": [None, nan, 1, -inf],
        "v": [[1, 2], [1], None, [nan, 1]],
        "y": [7, 0, 2, None],
        "w": [1, -1, nan, 0],
        "s": ["train", "tset", None, "val"],
    }
    frame = events(data, split=["train", None, None, "val"], schema={"d": pl.Float64})
    assert mistakes(feature_set, frame) == [
        f"events.parquet: {text}"
        for text in [
            "entity.user (column 'u'): null in 1 rows, first in row 0, got None; "
            "drop such events with sources.events.where",
            "entity.item (column 'u'): null in 1 rows, first in row 0, got None; "
            "drop such events with sources.events.where",
            "entity.time (column 't'): null in 2 rows, first in row 2, got None; "
            "drop such events with sources.events.where",
            "features.c (column 'c'): null in 1 rows, first in row 1, got None; "
            "set `fill` in the feature file, or mend the data",
            "features.l (column 'l'): null among the values in 1 rows, first in row 3, "
            "got [1, None]; set `fill` in the feature file, or mend the data",
            "features.i (column 'i'): id outside 0 ... 2 in 2 rows, first in row 1, got 3; "
            "raise encoding.size, or use encoding vocab",
            "features.d (column 'd'): null or NaN in 1 rows, first in row 1, got nan; "
            "set `fill` in the feature file, or mend the data",
            "features.d (column 'd'): infinite number in 1 rows, first in row 3, got inf; "
            "mend the data, or cut it off in expr",
            "features.d (column 'd'): number without sqrt in 1 rows, first in row 2, got -1.5; "
            "take another transform, or cut it off in expr",
            "features.b (column 'b'): infinite number in 1 rows, first in row 3, got -inf; "
            "mend the data, or cut it off in expr",
            "features.v (column 'v'): null in 1 rows, first in row 2, got None; mend the data",
            "features.v (column 'v'): list that has not 2 numbers in 1 rows, first in row 1, "
            "got [1.0]; set `size`, or mend the data",
            "features.v (column 'v'): null, NaN or infinite number in the list in 1 rows, "
            "first in row 3, got [nan, 1.0]; mend the data",
            "label.y (column): null in 1 rows, first in row 3, got None; "
            "leave such events out with label.where",
            "label.y (column): neither 0 nor 1 in 1 rows, first in row 2, got 2.0; "
            "give a condition in label.expr",
            "weight (expr 'w'): null, negative or no finite number in 2 rows, first in row 1, "
            "got -1.0; mend the data",
            "split (column 's'): value of no split in 1 rows, first in row 1, got 'tset'; "
            "allowed 'train', 'val', 'test'; name it in split.train, val or test",
        ]
    ]


def test_nan_is_no_positive_label(feature_file, events):
    feature_set = feature_file(
        "name: a, kind: dense",
        top="""
            label: [{name: y, expr: x >= 4}, {name: z, expr: x / a, where: x >= 4}]
            weight: a / a
        """,
    )
    nan = float("nan")
    frame = events({"a": [1.0, 5.0, 0.0], "x": [nan, 5.0, 3.0]}, schema={"x": pl.Float32})
    assert mistakes(feature_set, frame) == [
        "events.parquet: label.y (expr 'x >= 4'): null in 1 rows, first in row 0, got None; "
        "leave such events out with label.where",
        "events.parquet: weight (expr 'a / a'): null, negative or no finite number in 1 rows, "
        "first in row 2, got None; mend the data",
    ]


def test_no_number_is_nobody(feature_file, events):
    feature_set = feature_file(
        "name: a, kind: dense", top="entity: {user: u, item: i, time: {column: t}}"
    )
    nan = float("nan")
    ids = pl.Series([1.0, nan, None, nan], dtype=pl.Float32)
    frame = events({"u": ids, "i": [1.0, 2.0, 3.0, nan], "t": [nan, 1.0, 2.0, 3.0], "a": [1.0] * 4})
    remedy = "drop such events with sources.events.where"
    assert mistakes(feature_set, frame) == [
        f"events.parquet: entity.{text}; {remedy}"
        for text in (
            "user (column 'u'): null or NaN in 3 rows, first in row 1, got nan",
            "item (column 'i'): null or NaN in 1 rows, first in row 3, got nan",
            "time (column 't'): null or NaN in 1 rows, first in row 0, got nan",
        )
    ]


def test_data_that_cannot_be_fitted(feature_file, events):
    feature_set = feature_file("name: a, kind: dense, fill: mean")
    assert mistakes(feature_set, events({"a": [1.0, 2.0]}, split=["val", "test"])) == [
        "events.parquet: no event trains, got 2 events; check `split` and sources.events.where"
    ]
    frame = events({"a": [None, 1.0]}, split=["train", "val"])
    assert mistakes(feature_set, frame) == [
        "events.parquet: features.a (column 'a'): no training row has a number to take the mean "
        "of; set `fill` to a number"
    ]
    huge = feature_file("name: a, kind: dense")
    assert "number too large for 32 bits in 1 rows" in mistakes(huge, events({"a": [1e39]}))[0]
    like = feature_file("name: a, kind: categorical", "name: b, kind: categorical, like: a")
    assert mistakes(like, events({"a": [1], "b": ["x"]})) == [
        "features.b.like: values must be of the type of 'a', Int64, got type String; "
        "cast one in expr"
    ]
    text = feature_file("name: a, kind: dense, expr: cast(b as int)")
    (found,) = mistakes(text, events({"b": ["1", "x"]}))
    assert found.startswith("events.parquet: an expression or file cannot be read: ")


def test_streaming_files_fit_as_memory_does(feature_file, events, tmp_path):
    feature_set = feature_file(
        "name: a, kind: categorical, split: ' '",
        "name: b, kind: bucketized, quantiles: 5",
        "name: c, kind: dense, standardize: true",
    )
    generator = np.random.default_rng(0)
    numbers = generator.normal(1e6, 1, 5000)
    data = {"a": [f"{n % 7} {n % 11}" for n in range(5000)], "b": numbers, "c": numbers}
    frame = events(data)
    frame.collect().write_parquet(tmp_path / "e.parquet", row_group_size=97)
    in_memory = fit_schema(feature_set, frame)
    streamed = fit_schema(feature_set, pl.scan_parquet(tmp_path / "e.parquet"))
    assert in_memory.fingerprint() == streamed.fingerprint()
    assert streamed.moments["c"].std == pytest.approx(numbers.std(), rel=1e-6)
    assert frame.collect()[SPLIT].n_unique() == 1
