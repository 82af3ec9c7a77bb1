import re
from contextlib import suppress
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.checking.result import check_file
from features.errors import DataError
from features.infer.proposal import infer
from features.infer.text import feature_text
from features.load import parse_feature_set
from features.spec import Categorical, Dense, Sequence, Vector
from features.split_spec import ColumnSplit, LeaveOneOutSplit, RandomSplit, TemporalSplit

NUM_ROWS = 600


def base(num_rows=NUM_ROWS, seed=0) -> dict:
    """Clicks of 30 users on 40 items over 20 days; nothing says the label."""
    rng = np.random.default_rng(seed)
    return {
        "user_id": [f"u{k}" for k in rng.integers(0, 30, num_rows)],
        "item_id": rng.integers(0, 40, num_rows),
        "timestamp": [datetime(2024, 1, 1) + timedelta(minutes=48 * k) for k in range(num_rows)],
        "click": rng.integers(0, 2, num_rows),
    }


@pytest.fixture
def look(tmp_path):
    """Proposal, text and feature set of columns beside those of `base`; None drops one of these."""

    def run(columns=None, *, task="ranking", more=None, asked=None, **attributes):
        content = {k: v for k, v in (base() | (columns or {})).items() if v is not None}
        tables = {"events": content, **attributes} | (more or {})
        files = []
        for name, table in tables.items():
            files.append(tmp_path / f"{name}.parquet")
            frame = table if isinstance(table, pl.DataFrame) else pl.DataFrame(table, strict=False)
            frame.write_parquet(files[-1])
        proposal = infer(files, task=task, asked=asked or {})
        text = feature_text(proposal)
        feature_set = parse_feature_set(text, name="f.yaml")
        check_file(feature_set, proposal.data_dir)
        return text, feature_set

    return run


def line_of(text, name):
    return next(line for line in text.splitlines() if re.search(rf"\b{name}\b", line))


def left_out(text):
    after = text.partition("# left out:")[2].replace("\n#  ", "\n")
    return re.sub(r"\s+", " ", after)


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


# ------------------------------------------------------------------------------ who, what, when
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


# ---------------------------------------------------------------------------------------- labels
rng = np.random.default_rng(5)
STARS = rng.integers(1, 6, NUM_ROWS)
COUNTS = rng.poisson(0.4, NUM_ROWS)
KINDS = [("view", "cart", "purchase")[k] for k in rng.choice(3, NUM_ROWS, p=[0.8, 0.15, 0.05])]


@pytest.mark.parametrize(
    ("column", "values", "name", "expr"),
    [
        ("converted", [k % 3 == 0 for k in range(NUM_ROWS)], "converted", None),
        ("IsBought", [float(k % 2) for k in range(NUM_ROWS)], "IsBought", None),
        ("was clicked", [k % 2 for k in range(NUM_ROWS)], "was_clicked", '"was clicked"'),
        ("rating", STARS, "liked", "rating >= 4"),
        ("stars", STARS * 2.0, "liked", "stars >= 8"),
        ("clicks", COUNTS, "any_clicks", "clicks > 0"),
        ("plays", COUNTS + 1, "many_plays", "plays > 1"),
        ("event_type", KINDS, "is_purchase", "event_type = 'purchase'"),
        ("purchased", [("No", "Yes")[k % 2] for k in range(NUM_ROWS)], "purchased_Yes", None),
        ("flag", [k % 2 for k in range(NUM_ROWS)], "flag", None),
    ],
)
def test_labels(look, column, values, name, expr):
    text, found = look({"click": None, column: values})
    [label] = found.label
    assert label.name == name
    assert expr is None or label.expr == expr
    assert column not in {getattr(f, "source_column", "") for f in found.features}
    doubtful = column in ("rating", "stars", "clicks", "plays", "event_type", "flag")
    assert ("guess: " in line_of(text, "label")) == doubtful


def test_rows_without_a_label_are_no_examples(look):
    values = [None if k % 5 == 0 else k % 2 for k in range(NUM_ROWS)]
    _, found = look({"click": values})
    assert found.label[0].where == "click is not null"
    stars = [float("nan") if k % 5 == 0 else float(k % 5) for k in range(NUM_ROWS)]
    _, found = look({"click": None, "rating": stars})
    assert found.label[0].where == "rating <= 4.0"


def test_no_label(look):
    with pytest.raises(DataError, match=r"no column looks like a label, got user_id.*--label"):
        look({"click": None})
    _, found = look({"click": None}, task="sequence")
    assert [f.kind for f in found.features] == ["categorical", "sequence"]
    assert found.feature("history").pooling == "none"
    assert found.labels == ()


def test_what_a_person_says_counts(look):
    columns = {"bought": [k % 2 for k in range(NUM_ROWS)], "buyer": base()["user_id"][::-1]}
    _, found = look(columns, asked={"label": "bought", "user": "buyer"})
    assert (found.labels, found.entity.user) == (("bought",), "buyer")
    with pytest.raises(DataError, match=r"--label: no column 'clik'.*did you mean 'click'"):
        look(asked={"label": "clik"})
    with pytest.raises(DataError, match="--label: column 'user_id' makes no label"):
        look(asked={"label": "user_id"})
    with pytest.raises(DataError, match="--time: column 'user_id' cannot order events"):
        look(asked={"time": "user_id"})


# -------------------------------------------------------------------------------------- features
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


# --------------------------------------------------------------------------------------- sources
def test_attributes_join_by_their_key(look):
    items = {
        "item_id": range(38),
        "title": [f"title {k}" for k in range(38)],
        "genre": ["a", "b"] * 19,
        "cost": [1.0 + k for k in range(38)],
        "device": [0, 1] * 19,
    }
    users = {"user_id": [f"u{k}" for k in range(30)], "gender": ["f", "m"] * 15}
    text, found = look({"device": ["a", "b"] * (NUM_ROWS // 2)}, items=items, users=users)
    assert {name: source.on for name, source in found.attributes.items()} == {
        "items": "item_id",
        "users": "user_id",
    }
    assert (found.feature("genre").fill, found.feature("cost").fill) == ("unknown", "mean")
    assert found.feature("gender").fill is None
    num_unmatched = sum(item >= 38 for item in base()["item_id"])
    assert f"lacks the key of {num_unmatched} events" in line_of(text, "items")
    assert "title: another value in nearly every row of its table" in left_out(text)
    assert "device, items.device: another table has a column of this name" in left_out(text)
    with pytest.raises(DataError, match=r"items\.parquet: column 'click' is also in the events"):
        look(items=items | {"click": [0] * 38})


def test_tables_that_do_not_join(look):
    with pytest.raises(DataError, match="joins the events by no column, as none of item_id"):
        look(items={"item_id": [1, 1], "genre": ["a", "b"]})
    with pytest.raises(DataError, match="has no column in common"):
        look(items={"movie": [1, 2], "genre": ["a", "b"]})
    with pytest.raises(DataError, match="key 'item_id' must be of one type"):
        look(items={"item_id": ["1", "2"], "genre": ["a", "b"]})


def test_files_of_the_same_columns_are_events(look):
    with pytest.raises(DataError, match=r"no column is of use as a feature, got .* one value"):
        look({"user_id": "u", "item_id": 1, "timestamp": None})
    _, found = look(more={"later": base(50)})
    assert found.events.path == ("events.parquet", "later.parquet")
    assert isinstance(found.split, TemporalSplit)


def test_parts_that_files_or_a_column_say(look, tmp_path):
    for name in ("my_train", "my_valid", "my_test"):
        pl.DataFrame(base(100)).write_parquet(tmp_path / f"{name}.parquet")
    files = [tmp_path / f"my_{part}.parquet" for part in ("train", "test", "valid")]
    found = parse_feature_set(feature_text(infer(files, task="ranking", asked={})), name="f")
    assert found.split == ColumnSplit(
        kind="column",
        column="file",
        train=("my_train.parquet",),
        val=("my_valid.parquet",),
        test=("my_test.parquet",),
    )
    found = parse_feature_set(feature_text(infer(files[:2], task="ranking", asked={})), name="f")
    assert (found.split.val, found.split.test) == (("my_test.parquet",), ())
    _, found = look({"fold": [("train", "train", "dev", "test")[k % 4] for k in range(NUM_ROWS)]})
    assert found.split == ColumnSplit(
        kind="column", column="fold", train=("train",), val=("dev",), test=("test",)
    )
    assert "fold" not in {f.name for f in found.features}


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "text.parquet").write_text("a,b\n1,2\n")
    pl.DataFrame({"_row": [1], "click": [0]}).write_parquet(tmp_path / "reserved.parquet")
    pl.DataFrame(base()).clear().write_parquet(tmp_path / "none.parquet")
    with pytest.raises(DataError) as raised:
        infer(
            [tmp_path / "text.parquet", tmp_path / "absent.parquet", tmp_path],
            task="ranking",
            asked={},
        )
    assert [mistake.partition(": ")[2][:14] for mistake in raised.value.mistakes] == [
        "is no readable",
        "no such file; ",
        "is a folder; n",
    ]
    with pytest.raises(DataError, match="column name '_row' is reserved"):
        infer([tmp_path / "reserved.parquet"], task="ranking", asked={})
    with pytest.raises(DataError, match="has no rows"):
        infer([tmp_path / "none.parquet"], task="ranking", asked={})


def test_a_long_log_is_sampled_and_says_so(look, monkeypatch):
    monkeypatch.setattr("features.infer.profile.SAMPLE_ROWS", 200)
    holes = [None if k == NUM_ROWS - 1 else k % 3 for k in range(NUM_ROWS)]
    text, found = look({"rarely_null": holes})
    assert found.feature("rarely_null").fill == -1, "nulls are counted in all rows"
    assert re.search(r"looked at 1?\d\d of\s+#? ?them|looked at 2\d\d of\s+#? ?them", text)


# ------------------------------------------------------------------------------------ any frames
VALUES = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "small": st.integers(0, 3),
    "clock": st.integers(1_600_000_000, 1_700_000_000),
    "float": st.floats(allow_nan=True, allow_infinity=True),
    "text": st.text(max_size=6),
    "bool": st.booleans(),
    "bit": st.integers(0, 1),
    "date": st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)),
    "list": st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=3),
    "floats": st.lists(st.floats(-1, 1), min_size=2, max_size=2),
}
DTYPES = {
    "int": pl.Int64, "small": pl.UInt64, "clock": pl.Int64, "float": pl.Float64, "text": pl.String,
    "bool": pl.Boolean, "bit": pl.Int8, "date": pl.Datetime("us"), "list": pl.List(pl.Int64),
    "floats": pl.List(pl.Float64),
}  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(["user_id", "item", "rating", "ts", "click", "price", "tags", "pos", "Label"]),
    st.text(min_size=1, max_size=8).filter(lambda name: not name.startswith("_")),
)


@st.composite
def frames(draw):
    num_rows = draw(st.integers(1, 12))
    names = draw(st.lists(NAMES, min_size=1, max_size=7, unique_by=str.lower))
    columns = {}
    for name in names:
        kind = draw(st.sampled_from(sorted(VALUES)))
        values = VALUES[kind]
        if draw(st.booleans()):
            values = st.one_of(st.none(), values)
        cells = draw(st.lists(values, min_size=num_rows, max_size=num_rows))
        columns[name] = pl.Series(cells, dtype=DTYPES[kind])
    return pl.DataFrame(columns)


class TooFewRows(Exception):
    """Training has no row, or none with a number."""


def check(feature_set, directory):
    try:
        check_file(feature_set, directory)
    except DataError as error:
        if all("no event trains" in m or "no training row" in m for m in error.mistakes):
            raise TooFewRows from None
        raise


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(frames(), st.sampled_from(["ranking", "sequence"]))
def test_any_frame_gives_a_file_that_its_data_fits_or_a_reason(tmp_path, frame, task):
    file = Path(tmp_path) / "events.parquet"
    frame.write_parquet(file)
    try:
        proposal = infer([file], task=task, asked={})
    except DataError:
        return
    feature_set = parse_feature_set(feature_text(proposal), name="f.yaml")
    with suppress(TooFewRows):
        check(feature_set, Path(tmp_path))
