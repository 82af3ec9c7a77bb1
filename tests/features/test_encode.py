import math
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import ROW, SPLIT, WEIGHT
from features.encode import encode, encode_checked, hash63
from features.errors import DataError
from features.fit import fit_schema

QUICK = settings(deadline=None, max_examples=40)


@pytest.fixture(scope="session")
def encoded(feature_file, events):
    """Encoded columns of data, fitted to the same or other data."""

    def run(*features, data, fitted=None, schema=None, top="", with_labels=False):
        feature_set = feature_file(*features, top=top)
        fitted_schema = fit_schema(feature_set, events(fitted or data, schema=schema))
        frame = events(data, schema=schema)
        lazy = encode(fitted_schema, frame, with_labels=with_labels)
        found = lazy.collect(engine="streaming")
        checked = encode_checked(
            fitted_schema, frame.collect(), where="chunk", with_labels=with_labels
        )
        assert checked.equals(found)
        assert lazy.collect_schema() == found.schema
        return found

    return run


def test_columns_and_types(encoded):
    found = encoded(
        "name: u, kind: categorical",
        "name: g, kind: categorical, split: '|'",
        "name: hour, kind: categorical, expr: extract(hour from t)",
        "name: b, kind: bucketized, boundaries: [1, 2]",
        "name: d, kind: dense",
        "name: v, kind: vector, size: 2",
        "name: h, kind: sequence, of: u, max_length: 2, where: r > 3",
        "name: w, kind: sequence, of: u, max_length: 2",
        data={
            "u": [5, 6], "g": ["a|b", None], "b": [1, 2.5], "d": [True, False],
            "v": [[1, 2], [3, 4]], "r": [4, 3], "i": ["x", "y"], "t": [datetime(2020, 1, 1, 7)] * 2,
        },
        top="entity: {user: u, item: i, time: t}\nweight: r - 2.5\n"
        "label: [{name: y, expr: r >= 4, where: r <> 3}, {name: z, expr: r = 3}]",
        with_labels=True,
    )  # fmt: skip
    assert found.schema == {
        ROW: pl.Int64, SPLIT: pl.String, "_entity.user": pl.Int64, "_entity.item": pl.String,
        "_entity.time": pl.Datetime("us"), "u": pl.Int64, "g": pl.List(pl.Int64),
        "hour": pl.Int64, "b": pl.Int64, "d": pl.Float32, "v": pl.Array(pl.Float32, 2),
        "_keep.h": pl.Boolean, "_label.y": pl.Float32, "_label.z": pl.Float32,
        WEIGHT: pl.Float32,
    }  # fmt: skip
    assert found.select(pl.exclude("_entity.user", "_entity.item", "_entity.time")).rows() == [
        (0, "train", 1, [1, 2], 1, 1, 1.0, [1.0, 2.0], True, 1.0, 0.0, 1.5),
        (1, "train", 2, [], 1, 2, 0.0, [3.0, 4.0], False, None, 1.0, 0.5),
    ]


def xxhash64_of(text: str) -> int:
    """By the specification, for texts below 32 bytes."""
    p1, p2, p3, p4, p5 = (11400714785074694791, 14029467366897019727, 1609587929392839161,
                          9650029242287828579, 2870177450012600261)  # fmt: skip
    mask = 2**64 - 1

    def rotated(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & mask

    data = text.encode()
    acc = (p5 + len(data)) & mask
    while len(data) >= 8:
        lane = rotated(int.from_bytes(data[:8], "little") * p2 & mask, 31) * p1 & mask
        acc, data = (rotated(acc ^ lane, 27) * p1 + p4) & mask, data[8:]
    if len(data) >= 4:
        acc ^= int.from_bytes(data[:4], "little") * p1 & mask
        acc, data = (rotated(acc, 23) * p2 + p3) & mask, data[4:]
    for byte in data:
        acc = rotated(acc ^ (byte * p5 & mask), 11) * p1 & mask
    for shift, factor in ((33, p2), (29, p3), (32, 1)):
        acc = (acc ^ acc >> shift) * factor & mask
    return acc


def test_hashes_never_change():
    texts = pl.DataFrame({"x": ["", "a", "42", "-7", "é", "東京", "naïve 😀", "true"]})
    assert texts.select(hash63(pl.col("x")))["x"].to_list() == [
        8018337217222601113, 5930894301504237147, 7919287270473417401, 886858136181348751,
        1717938401253289848, 1534831131275564116, 7669442574764783697, 6325791082170035786,
    ]  # fmt: skip


@QUICK
@given(st.lists(st.text(max_size=7)))
def test_hash_is_xxhash64(texts):
    found = pl.DataFrame({"x": texts}, schema={"x": pl.String}).select(hash63(pl.col("x")))
    assert found["x"].to_list() == [xxhash64_of(text) % 2**63 for text in texts]


@pytest.mark.parametrize("size", [None, 10])
def test_numbers_and_their_texts_hash_alike(encoded, size):
    encoding = f"{{kind: hash, size: {size}}}" if size else "hash"
    top = "tables: {t: {scheme: hash, rows: 9}}"
    feature = f"name: x, kind: categorical, table: t, encoding: {encoding}"
    columns = [[42, -7], ["42", "-7"], [["42", "-7"]]]
    one, two, lists = (encoded(feature, data={"x": x}, top=top)["x"].to_list() for x in columns)
    assert one == two == lists[0]
    assert one == [xxhash64_of(text) % 2**63 % (size or 2**63) for text in ("42", "-7")]


WORDS = st.text("abé|東 ", max_size=3)


@QUICK
@given(st.lists(WORDS, min_size=1), st.lists(st.one_of(st.none(), WORDS), min_size=1))
def test_split_texts_against_brute_force(encoded, training, scored):
    found = encoded(
        "name: x, kind: categorical, split: '|'",
        fitted={"x": training}, data={"x": scored}, schema={"x": pl.String},
    )["x"]  # fmt: skip
    pieces = [p for text in training for p in text.split("|") if p]
    known = sorted(set(pieces), key=lambda p: (-pieces.count(p), p.encode()))
    ids = {piece: i + 1 for i, piece in enumerate(known)}
    expected = [[ids.get(p, 0) for p in (text or "").split("|") if p] for text in scored]
    assert found.to_list() == expected


NUMBERS = st.integers(-(2**31), 2**31 - 1)


@QUICK
@given(st.lists(NUMBERS, min_size=1), st.lists(st.one_of(st.none(), NUMBERS), min_size=1))
def test_vocabulary_ids_against_brute_force(encoded, training, scored):
    scored = [*scored, *training]
    found = encoded(
        "name: x, kind: categorical, fill: 3", fitted={"x": training}, data={"x": scored},
        schema={"x": pl.Int64},
    )["x"]  # fmt: skip
    known = sorted(set(training), key=lambda v: (-training.count(v), v))
    ids = {value: i + 1 for i, value in enumerate(known)}
    assert found.to_list() == [ids.get(3 if v is None else v, 0) for v in scored]


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int32, pl.UInt16, pl.UInt64, pl.List(pl.Int16)])
def test_width_of_numbers_does_not_matter(feature_file, events, dtype):
    values = pl.Series([3, 5, 9])
    many = isinstance(dtype, pl.List)
    wide = values.reshape((3, 1)).arr.to_list() if many else values
    schema = fit_schema(feature_file("name: x, kind: categorical"), events({"x": wide}))
    narrow = events({"x": wide.cast(dtype)})
    found = encode(schema, narrow, with_labels=False).collect()["x"]
    assert found.to_list() == ([[1], [2], [3]] if many else [1, 2, 3])


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["b", "a"]), pl.String])
def test_kinds_of_text_do_not_matter(feature_file, events, dtype):
    schema = fit_schema(feature_file("name: x, kind: categorical"), events({"x": ["a", "b"]}))
    other = events({"x": pl.Series(["b", "a"], dtype=dtype)})
    assert encode(schema, other, with_labels=False).collect()["x"].to_list() == [2, 1]


def test_a_vocabulary_of_unsigned_numbers_still_serves(feature_file, events):
    feature_set = feature_file("name: a, kind: categorical, expr: h % 10")
    frame = events({"h": [17, 2**63 + 7, 5]}, schema={"h": pl.UInt64})
    schema = fit_schema(feature_set, frame)
    (known,) = schema.vocabularies.values()
    old = replace(known, values=known.values.cast(pl.UInt64))
    found = [
        encode(replace(schema, vocabularies={"a": v}), frame, with_labels=False).collect()["a"]
        for v in (known, old)
    ]
    assert [ids.to_list() for ids in found] == [[2, 1, 1]] * 2


def test_types_must_be_those_of_training(feature_file, events):
    feature_set = feature_file("name: x, kind: categorical", "name: y, kind: categorical")
    schema = fit_schema(feature_set, events({"x": [1], "y": [["a"]]}))
    with pytest.raises(DataError) as caught:
        encode(schema, events({"x": ["1"], "y": ["a"]}), with_labels=False)
    assert caught.value.mistakes == (
        "features.x (column 'x'): must hold values of type Int64, as in training, got String; "
        "cast it in the data",
        "features.y (column 'y'): must be a list, as in training, got single values of type String",
    )


@QUICK
@given(
    st.lists(st.floats(-10, 10, width=32) | st.none() | st.just(math.nan), min_size=1),
    st.lists(st.integers(-8, 8), min_size=1, max_size=4, unique=True),
)
def test_buckets_against_brute_force(encoded, values, boundaries):
    boundaries.sort()
    found = encoded(
        f"name: x, kind: bucketized, fill: 0, boundaries: {boundaries}",
        data={"x": values}, schema={"x": pl.Float64},
    )["x"]  # fmt: skip
    filled = [0 if v is None or math.isnan(v) else v for v in values]
    assert found.to_list() == [sum(b <= v for b in boundaries) for v in filled]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("fill: 2", [1, 2, 2, 9]),
        ("fill: mean", [1, 5, 5, 9]),
        ("fill: 2, transform: log1p", np.log1p([1, 2, 2, 9])),
        ("fill: -4, transform: signed_log1p", [math.log(2), -math.log(5), -math.log(5),
                                               math.log(10)]),
        ("fill: 2, transform: sqrt, clip: [1.2, 2]", [1.2, math.sqrt(2), math.sqrt(2), 2]),
        ("fill: 2, standardize: true", (np.array([1, 2, 2, 9]) - 3.5) / np.std([1, 2, 2, 9])),
        ("fill: mean, standardize: true", [-1, 0, 0, 1]),
    ],
)  # fmt: skip
def test_dense_by_hand(encoded, options, expected):
    data = {"x": [1.0, None, math.nan, 9.0]}
    found = encoded(f"name: x, kind: dense, {options}", data=data)["x"].to_list()
    assert found == pytest.approx(list(expected), rel=1e-6)


def test_identity_and_booleans(encoded):
    found = encoded(
        "name: i, kind: categorical, encoding: {kind: identity, size: 9}",
        "name: l, kind: categorical, encoding: {kind: identity, size: 9}",
        "name: b, kind: categorical",
        data={"i": [8, 0], "l": [[1, 8], []], "b": [True, False]},
    )
    assert found.select("i", "l", "b").rows() == [(8, [1, 8], 2), (0, [], 1)]


def test_chunks_are_checked_like_training_data(feature_file, events):
    feature_set = feature_file(
        "name: a, kind: categorical", "name: d, kind: dense", top="label: {name: y}"
    )
    schema = fit_schema(feature_set, events({"a": [1], "d": [1], "y": [1]}))
    chunk = pl.DataFrame({"a": [1, None], "d": [math.nan, 1], "y": [1, 3]})
    with pytest.raises(DataError) as caught:
        encode_checked(schema, chunk, where="part 7", with_labels=True)
    where = [mistake.split(" in ")[0] for mistake in caught.value.mistakes]
    assert where == [
        "part 7: features.a (column 'a'): null",
        "part 7: features.d (column 'd'): null or NaN",
        "part 7: label.y (column): neither 0 nor 1",
    ]
    good = pl.DataFrame({"a": [1, 2], "d": [3, 4]})
    found = encode_checked(schema, good, where="part 7", with_labels=False)
    assert found.rows() == [(0, 1, 3.0), (1, 0, 4.0)]
    with pytest.raises(DataError, match=r"part 7: features\.d: cannot be computed"):
        encode_checked(schema, good.drop("d"), where="part 7", with_labels=False)


def test_an_empty_chunk_encodes_to_nothing(feature_file, events):
    feature_set = feature_file(
        "name: a, kind: categorical", "name: l, kind: categorical",
        "name: d, kind: dense", "name: b, kind: bucketized, boundaries: [1]",
        "name: v, kind: vector, size: 1",
    )  # fmt: skip
    data = {"a": ["x"], "l": [["x"]], "d": [1], "b": [1], "v": [[1.0]]}
    frame = events(data)
    schema = fit_schema(feature_set, frame)
    empty = encode_checked(schema, frame.collect().clear(), where="none", with_labels=False)
    assert empty.height == 0
    assert empty.schema == encode(schema, frame, with_labels=False).collect_schema()


def test_streaming_many_row_groups_keeps_order(feature_file, events, tmp_path):
    feature_set = feature_file("name: a, kind: categorical, split: ' '", "name: b, kind: dense")
    data = {"a": [f"{n % 7} {n % 911}" for n in range(5000)], "b": list(range(5000))}
    frame = events(data)
    frame.collect().write_parquet(tmp_path / "e.parquet", row_group_size=61)
    schema = fit_schema(feature_set, frame)
    streamed = encode(schema, pl.scan_parquet(tmp_path / "e.parquet"), with_labels=False)
    expected = encode(schema, frame, with_labels=False).collect()
    assert streamed.collect(engine="streaming").equals(expected)
    assert expected["b"].to_list() == data["b"]
