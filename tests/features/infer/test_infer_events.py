"""Who, what and when: columns of the log that `init` finds."""

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from proposed import NUM_ROWS, base, line_of

from features.split_spec import LeaveOneOutSplit, RandomSplit, TemporalSplit


def test_a_plain_log(look):
    text, found = look()
    assert (found.entity.user, found.entity.item, found.entity.time.column) == (
        "user_id",
        "item_id",
        "timestamp",
    )
    assert found.labels == ("click",)
    assert isinstance(found.split, TemporalSplit)
    assert [f.name for f in found.features] == ["user_id", "item_id", "hour", "weekday", "history"]
    history = found.feature("history")
    assert (history.of, history.where, history.pooling) == ("item_id", "click = 1", "mean")
    lengths = pl.Series(base()["user_id"]).value_counts()["count"]
    assert history.max_length == 5 * np.ceil(lengths.quantile(0.9) / 5)
    assert "# guess: nine of ten users" in line_of(text, "history")
    assert "# left out" not in text
    assert "looked at all of them" in " ".join(text.replace("#", "").split())


@pytest.mark.parametrize(
    ("user", "item"),
    [
        ("userId", "movieId"),
        ("uid", "iid"),
        ("customer", "product"),
        ("visitorid", "itemid"),
        ("session_id", "article_id"),
        ("CustomerID", "StockCode_id"),
        ("user", "ad_id"),
    ],
)
def test_names_of_users_and_items(look, user, item):
    columns = {"user_id": None, "item_id": None, user: base()["user_id"], item: base()["item_id"]}
    text, found = look(columns)
    assert (found.entity.user, found.entity.item) == (user, item)
    assert {user, item} <= {f.name for f in found.features}
    assert ("guess" in line_of(text, "entity")) == (item == "StockCode_id")


def test_columns_about_users_are_no_users(look):
    _, found = look({"user_age": [k % 50 for k in range(NUM_ROWS)], "item_price": 1.5})
    assert (found.entity.user, found.entity.item) == ("user_id", "item_id")


@pytest.mark.parametrize(
    ("name", "per_second", "unit"),
    [
        ("ts", 1, "s"),
        ("event_time", 10**3, "ms"),
        ("created_at", 10**6, "us"),
        ("time", 10**9, "ns"),
    ],
)
def test_units_of_times(look, name, per_second, unit):
    seconds = [1_704_067_200 + 2880 * k for k in range(NUM_ROWS)]
    columns = {"timestamp": None, name: [second * per_second for second in seconds]}
    _, found = look(columns)
    assert (found.entity.time.column, found.entity.time.unit) == (name, unit)
    assert {"hour", "weekday"} <= {f.name for f in found.features}


def test_times_of_other_kinds(look):
    days = [date(2024, 1, 1) + timedelta(days=k // 30) for k in range(NUM_ROWS)]
    _, found = look({"timestamp": None, "date": days})
    assert found.entity.time.column == "date"
    assert [f.name for f in found.features if "extract" in (getattr(f, "expr", "") or "")] == [
        "weekday"
    ]
    text, found = look({"timestamp": None, "hour": [14_102_100 + k // 30 for k in range(NUM_ROWS)]})
    assert (found.entity.time.column, found.entity.time.unit) == ("hour", None)
    assert "guess" in line_of(text, "entity")
    _, found = look({"timestamp": None, "birth_date": days})
    assert found.entity.time is None
    assert isinstance(found.split, RandomSplit)


def test_a_position_orders_only_the_events_of_a_user(look):
    users = pl.DataFrame(base()).with_columns(pos=pl.int_range(pl.len()).over("user_id"))
    _text, found = look({"timestamp": None, "pos": users["pos"].to_list()})
    assert found.entity.time.column == "pos"
    assert isinstance(found.split, LeaveOneOutSplit)
    assert "pos" not in {f.name for f in found.features}
    _, found = look({"pos": users["pos"].to_list()})
    assert found.entity.time.column == "timestamp"
    _, found = look({"pos": users["pos"].to_list()}, task="sequence")
    assert found.entity.time.column == "pos"
    _, found = look({"timestamp": None, "position": [k % 7 for k in range(NUM_ROWS)]})
    assert found.entity.time is None, "the place of an ad, not of an event"
    assert found.feature("position").kind == "categorical"


def test_one_instant_is_not_split_by_time(look):
    text, found = look({"timestamp": datetime(2024, 1, 1)})
    assert isinstance(found.split, RandomSplit)
    assert found.entity.time is None
    half = [datetime(2024, 1, 1 + k % 2) for k in range(NUM_ROWS)]
    text, found = look({"timestamp": half})
    assert isinstance(found.split, RandomSplit)
    assert "guess: too few different times" in line_of(text, "split")
