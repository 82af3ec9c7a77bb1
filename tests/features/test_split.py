from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import ROW, SPLIT
from features.errors import DataError
from features.split import assign_split, uniform

QUICK = settings(deadline=None, max_examples=40)
SEEDS = st.integers(-(2**40), 2**63)


def splitmix64(state: int) -> int:
    """As in Vigna's reference code: advance by the constant, then mix."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def splits(feature_set, frame) -> list:
    return assign_split(feature_set, frame).collect(engine="streaming")[SPLIT].to_list()


def test_reference_hash_gives_the_published_numbers():
    # First outputs of the reference generator started at 1234567.
    states = [1234567 + i * 0x9E3779B97F4A7C15 for i in range(3)]
    assert [splitmix64(s % 2**64) for s in states] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
    ]  # fmt: skip


@QUICK
@given(st.lists(st.integers(0, 2**62), min_size=1), SEEDS)
def test_random_numbers_are_splitmix64(rows, seed):
    found = pl.DataFrame({ROW: rows}).select(uniform(pl.col(ROW), seed=seed))[ROW].to_list()
    start = splitmix64(seed % 2**64)
    states = [(row * 0x9E3779B97F4A7C15 + start) % 2**64 for row in rows]
    assert found == [(splitmix64(state) >> 11) / 2**53 for state in states]


def test_random_split_never_changes(feature_file, events):
    feature_set = feature_file("name: a, kind: dense", top="split: {kind: random, seed: 7}")
    frame = events({"a": range(20_000)}).drop(SPLIT)
    found = splits(feature_set, frame)
    letters = "".join(split[1] for split in found[:40])
    assert letters == "rrrrrreearerrraaerrerrrrrreerererrerrare"
    shares = [found.count(name) / 20_000 for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    some = frame.filter(pl.col(ROW) % 3 == 1)
    assert splits(feature_set, some) == found[1::3]


@pytest.mark.parametrize(
    ("fractions", "empty"), [("[1, 0, 0]", {"val", "test"}), ("[0.7, 0.3, 0]", {"test"}),
                             ("[0.9, 0, 0.1]", {"val"})],
)  # fmt: skip
def test_shares_of_zero_are_empty(feature_file, events, fractions, empty):
    top = f"entity: {{time: a}}\nsplit: {{kind: KIND, fractions: {fractions}}}"
    for kind in ("random", "temporal"):
        feature_set = feature_file("name: a, kind: dense", top=top.replace("KIND", kind))
        found = splits(feature_set, events({"a": range(2000)}).drop(SPLIT))
        assert set(found) == {"train", "val", "test"} - empty


def test_instants_stay_together(feature_file, events):
    feature_set = feature_file(
        "name: a, kind: dense",
        top="entity: {time: t}\nsplit: {kind: temporal, fractions: [0.5, 0.2, 0.3]}",
    )
    times = [5, 1, 3, 3, 3, 3, 8, 2, None, 9, 9]
    # 10 events have a time: positions 0..9 in order 1 2 3 3 3 3 5 8 9 9; validation starts with
    # the first instant at position 5 or later, test at 7 or later.
    expected = {1: "train", 2: "train", 3: "train", 5: "val", 8: "test", 9: "test", None: None}
    found = splits(feature_set, events({"t": times, "a": times}).drop(SPLIT))
    assert found == [expected[time] for time in times]


@QUICK
@given(st.lists(st.integers(0, 12), min_size=1), st.integers(1, 9), st.integers(0, 5))
def test_temporal_shares_against_brute_force(feature_file, events, times, train, val):
    train, val = train / 10, min(val, 10 - train) / 10
    fractions = [train, val, round(1 - train - val, 6)]
    feature_set = feature_file(
        "name: a, kind: dense",
        top=f"entity: {{time: t}}\nsplit: {{kind: temporal, fractions: {fractions}}}",
    )
    found = splits(feature_set, events({"t": times}).drop(SPLIT))
    for time, split in zip(times, found, strict=True):
        earlier = sum(other < time for other in times)
        is_val = earlier >= round(train * len(times), 6) and fractions[1] + fractions[2] > 0
        is_test = earlier >= round((train + val) * len(times), 6) and fractions[2] > 0
        assert split == ("test" if is_test else "val" if is_val else "train")


@pytest.mark.parametrize(
    ("unit", "val_from", "test_from"),
    [
        (None, "2020-01-03", "2020-01-04T12:00:00+09:00"),
        (None, "'2020-01-03 00:00'", "2020-01-04 03:00:00"),
        ("s", 1578009600, 1578106800),
    ],
)
def test_instants_of_dates_and_ticks(feature_file, events, unit, val_from, test_from):
    time = f"{{column: t, unit: {unit}}}" if unit else "t"
    feature_set = feature_file(
        "name: a, kind: dense",
        top=f"entity: {{time: {time}}}\n"
        f"split: {{kind: temporal, val_from: {val_from}, test_from: {test_from}}}",
    )
    start = datetime(2020, 1, 3)
    hours = [-1, 0, 26, 27, 50]
    times = [start + timedelta(hours=h) for h in hours]
    frame = events({"t": times}, schema={"t": pl.Datetime("us")}).drop(SPLIT)
    assert splits(feature_set, frame) == ["train", "val", "val", "test", "test"]


def test_instants_must_fit_the_time(feature_file, events):
    top = "entity: {time: t}\nsplit: {kind: temporal, val_from: A, test_from: B}"
    dates = feature_file("name: a, kind: dense",
                         top=top.replace("A", "2020-01-01").replace("B", "2021-01-01"))  # fmt: skip
    with pytest.raises(
        DataError, match=r"split\.val_from: must be a number, as the time column is"
    ):
        assign_split(dates, events({"t": [1]}).drop(SPLIT))
    numbers = feature_file("name: a, kind: dense", top=top.replace("A", "3").replace("B", "4"))
    with pytest.raises(DataError, match=r"split\.val_from: must be an ISO date or datetime, as"):
        assign_split(numbers, events({"t": [datetime(2020, 1, 1)]}).drop(SPLIT))


@QUICK
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1), st.integers(1, 4))
def test_leave_one_out_against_brute_force(feature_file, events, log, min_events):
    feature_set = feature_file(
        "name: a, kind: dense",
        top=f"entity: {{user: u, time: t}}\n"
        f"split: {{kind: leave_one_out, min_events: {min_events}}}",
    )
    frame = events({"u": [u for u, _ in log], "t": [t for _, t in log]}).drop(SPLIT)
    expected = ["train"] * len(log)
    for user in {u for u, _ in log}:
        rows = sorted((t, row) for row, (u, t) in enumerate(log) if u == user)
        if len(rows) >= min_events:
            expected[rows[-1][1]] = "test"
            if len(rows) > 1:
                expected[rows[-2][1]] = "val"
    assert splits(feature_set, frame) == expected


def test_column_split(feature_file, events):
    feature_set = feature_file(
        "name: a, kind: dense",
        top="split: {kind: column, column: s, train: [0, 1.0], val: [true], test: [x]}",
    )
    for values, expected in [
        ([0, 1, 2, None], ["train", "train", None, None]),
        (["x", "0", "y"], ["test", "train", None]),
        ([True, False], ["val", None]),
        ([0.0, 1.0, 0.5, None], ["train", "train", None, None]),
        (pl.Series([0, 1, 2], dtype=pl.Decimal(9, 2)), ["train", "train", None]),
    ]:
        assert splits(feature_set, events({"s": values}).drop(SPLIT)) == expected
