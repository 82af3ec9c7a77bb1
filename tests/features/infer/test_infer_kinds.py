"""Which features `init` proposes, and what it leaves out."""

import re
from datetime import date

import numpy as np
import polars as pl
import pytest
from proposed import NUM_ROWS, base, left_out, line_of

from features.errors import DataError
from features.spec import Categorical, Dense, Sequence, Vector


def test_kinds_of_numbers(look):
    rng = np.random.default_rng(3)
    _, found = look(
        {
            "price": np.exp(rng.normal(3, 1.5, NUM_ROWS)),
            "temperature": rng.normal(0, 1, NUM_ROWS),
            "change": rng.normal(0, 1, NUM_ROWS) ** 5,
            "age": rng.integers(18, 80, NUM_ROWS),
            "slot": rng.integers(0, 5, NUM_ROWS),
            "city_code": rng.integers(0, 200, NUM_ROWS),
            "shop": rng.integers(0, 2**60, 100)[rng.integers(0, 100, NUM_ROWS)],
            "premium": rng.integers(0, 2, NUM_ROWS) > 0,
        }
    )
    dense = {f.name: (f.transform, f.standardize) for f in found.of_kind(Dense)}
    assert dense == {
        "price": ("log1p", True),
        "temperature": (None, True),
        "change": ("signed_log1p", True),
        "age": (None, True),
    }
    names = {f.name for f in found.of_kind(Categorical)}
    assert {"slot", "city_code", "shop", "premium"} <= names


@pytest.mark.parametrize("separator", ["|", ";", ",", ", ", " "])
def test_texts_of_several_values(look, separator):
    rng = np.random.default_rng(1)
    words = [f"w{k}" for k in range(12)]
    texts = [
        separator.join(rng.choice(words, rng.integers(1, 4), replace=False)) for _ in range(200)
    ]
    texts = [texts[k] for k in rng.integers(0, 200, NUM_ROWS)]
    _, found = look({"tags": texts})
    assert found.feature("tags").split == separator


def test_names_and_titles_are_not_split(look):
    cities = ["New York", "Los Angeles", "San Francisco", "Berlin", "Bad Ems, Germany"]
    _, found = look({"city": [cities[k % 5] for k in range(NUM_ROWS)]})
    assert found.feature("city").split is None


def test_lists_and_vectors(look):
    text, found = look(
        {
            "topics": [["a", "b"][: k % 3] for k in range(NUM_ROWS)],
            "holes": [[1, None] if k % 2 else None for k in range(NUM_ROWS)],
            "embedding": [[0.5, float(k), 1.0] for k in range(NUM_ROWS)],
            "ragged": [[0.5] * (k % 3) for k in range(NUM_ROWS)],
            "nested": [[["a"]]] * NUM_ROWS,
            "empty": pl.Series([[]] * NUM_ROWS, dtype=pl.List(pl.Int64)),
        }
    )
    assert isinstance(found.feature("topics"), Categorical)
    assert found.feature("holes").fill == 0
    vector = found.feature("embedding")
    assert isinstance(vector, Vector)
    assert vector.size == 3
    for name in ("ragged", "nested", "empty"):
        assert name in left_out(text)


def test_what_is_left_out_and_why(look):
    rng = np.random.default_rng(2)
    clicks = base()["click"]
    words = [f"word{k}" for k in range(900)]
    text, found = look(
        {
            "event_id": range(NUM_ROWS),
            "country": "de",
            "nothing": pl.Series([None] * NUM_ROWS, dtype=pl.Int64),
            "paid": np.where(rng.random(NUM_ROWS) > 0.01, clicks, 1 - clicks),
            "revenue": rng.random(NUM_ROWS),
            "quality": ["bad" if c == 0 and k % 3 else "ok" for k, c in enumerate(clicks)],
            "signup": [date(2020, 1, 1 + k % 9) for k in range(NUM_ROWS)],
            "review": [" ".join(rng.choice(words, 8)) for _ in range(NUM_ROWS)],
            "sent_time": [1_700_000_000 + 977 * (k % 99) for k in range(NUM_ROWS)],
            "blob": [b"x"] * NUM_ROWS,
            "huge": [float("inf") if k == 9 else float(k) for k in range(NUM_ROWS)],
        }
    )  # fmt: skip
    told = left_out(text)
    for name, reason in {
        "event_id": "another value in nearly every row",
        "country": "one value",
        "nothing": "no values",
        "paid": "gives the label away, AUC",
        "revenue": "known only after the event",
        "quality": "gives the label away: 'bad' means 0",
        "signup": "a date",
        "sent_time": "a date",
        "review": "another value in nearly every row",
        "blob": "type Binary",
        "huge": "infinite in 1 rows",
    }.items():
        assert name not in {f.name for f in found.features}, name
        assert re.search(rf"\b{name}\b[^:]*: [^#]*{re.escape(reason)}", told), (name, told)


def test_amounts_that_all_differ_are_numbers(look):
    _, found = look({"cost": range(NUM_ROWS)})
    assert isinstance(found.feature("cost"), Dense)


def test_nulls_get_a_fill(look):
    def some(values):
        return [None if k % 7 == 0 else value for k, value in enumerate(values)]

    _text, found = look(
        {
            "color": some(["red", "blue"] * (NUM_ROWS // 2)),
            "level": some([k % 4 - 1 for k in range(NUM_ROWS)]),
            "width": some([float(k % 90) for k in range(NUM_ROWS)]),
            "vip": some([k % 2 == 0 for k in range(NUM_ROWS)]),
            "user_id": some(base()["user_id"]),
            "timestamp": some(base()["timestamp"]),
        }
    )
    fills = {f.name: f.fill for f in found.features if getattr(f, "fill", None) is not None}
    assert fills == {"color": "unknown", "level": -2, "width": "mean", "vip": False}
    assert found.events.where == "user_id is not null and timestamp is not null"


def test_ids_that_occur_once_and_ids_without_number(look, monkeypatch):
    rare = [f"r{k}" if k % 2 else f"f{k % 40}" for k in range(4_000)]
    columns = base(4_000) | {"query": rare}
    text, found = look(columns)
    assert found.feature("query").encoding.min_count == 2
    assert "% of the 2,020 values occur once" in line_of(text, "query")
    monkeypatch.setattr("features.infer.feature.MOST_IDS", 1_000)
    text, found = look(columns)
    assert found.feature("query").encoding.kind == "hash"
    assert found.tables["hashed"].scheme == "unified"


def test_odd_names_of_columns(look):
    _text, found = look(
        {
            "größe in cm": [float(k % 90) for k in range(NUM_ROWS)],
            "size": [k % 3 for k in range(NUM_ROWS)],
            "values": [k % 4 for k in range(NUM_ROWS)],
            "a: b, #c\"'": [k % 5 for k in range(NUM_ROWS)],
            "yes": [k % 6 for k in range(NUM_ROWS)],
            "Null": [k % 9 for k in range(NUM_ROWS)],
            "名前": ["x", "y"] * (NUM_ROWS // 2),
            "select": [k % 2 + 1 for k in range(NUM_ROWS)],
        }
    )
    sources = {f.source_column: f.name for f in found.features if not isinstance(f, Sequence)}
    assert sources["größe in cm"] == "gr_e_in_cm"
    assert {"values", "a: b, #c\"'", "yes", "Null", "名前", "select"} <= sources.keys()


def test_a_next_item_file_has_no_label(look):
    clicked = {"clicked": [k % 2 for k in range(NUM_ROWS)]}
    with pytest.raises(DataError, match=r"--label: a next-item file has none, .*got 'clicked'; dr"):
        look(clicked, task="sequence", asked={"label": "clicked"})


def test_odd_names_of_users_and_items(look):
    columns = {"user_id": None, "item_id": None, 'Item "ID"': base()["item_id"]}
    _, found = look(columns | {"User ID": base()["user_id"]})
    assert (found.entity.user, found.entity.item) == ("User ID", 'Item "ID"')
    assert found.feature("history").of == "Item_ID"
    with pytest.raises(DataError, match="item column cannot be the name of a feature"):
        look(columns | {"User ID": base()["user_id"]}, task="sequence")


def test_columns_that_are_alike_share_a_line(look):
    text, _ = look({f"c{k:02}": [f"v{(j + k) % 7}" for j in range(NUM_ROWS)] for k in range(40)})
    assert text.count("\n") < 40
    assert max(map(len, text.splitlines())) < 160
