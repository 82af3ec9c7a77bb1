import shutil
from datetime import date, datetime

import polars as pl
import pytest

from features.columns import ROW
from features.errors import DataError
from features.fit import fit_file
from features.sources import scan_events, source_files

LOG = "entity: {user: u, item: i, time: {column: t, unit: s}}"
JOINED = "{events: events.parquet, items: {path: items.parquet, on: i}}"
EVENTS = {"u": [1, 2, 1, 3], "i": [7, 8, 9, 7], "t": [0, 3600, 7200, 90_000], "x": [1.5, 2, 3, 4]}
ITEMS = {"i": [9, 7], "genre": ["a|b", "c"], "x": [0.0, 0.0]}


@pytest.fixture
def store(tmp_path):
    def write(**tables):
        for name, data in tables.items():
            path = tmp_path / f"{name.replace('__', '/')}.parquet"
            path.parent.mkdir(exist_ok=True)
            pl.DataFrame(data).write_parquet(path, row_group_size=2)
        return tmp_path

    return write


def mistakes(feature_set, data_dir, **options) -> list[str]:
    with pytest.raises(DataError) as caught:
        scan_events(feature_set, data_dir, **options)
    return [mistake.replace(str(data_dir) + "/", "") for mistake in caught.value.mistakes]


def test_rows_joins_filter_and_time(feature_file, store):
    feature_set = feature_file(
        "name: genre, kind: categorical, fill: none",
        "name: hour, kind: categorical, expr: extract(hour from t)",
        sources="{events: {path: events.parquet, where: 'i <> 8'}, "
        "items: {path: items.parquet, on: i}}",
        top=LOG,
    )
    items = {"i": pl.Series(ITEMS["i"], dtype=pl.Int32), "genre": ITEMS["genre"]}
    frame = scan_events(feature_set, store(events=EVENTS, items=items))
    found = frame.collect(engine="streaming")
    assert found[ROW].to_list() == [0, 2, 3]
    assert found.schema[ROW] == pl.Int64
    assert found["genre"].to_list() == ["c", "a|b", "c"]
    assert found["t"].to_list() == [
        datetime(1970, 1, 1), datetime(1970, 1, 1, 2), datetime(1970, 1, 2, 1),
    ]  # fmt: skip
    assert found.schema["t"] == pl.Datetime("us")


def test_conditions_count_exactly(feature_file, store):
    events = {
        "paid": pl.Series([5, 10, 12], dtype=pl.UInt32),
        "cost": pl.Series([10, 9, 1], dtype=pl.UInt8),
        "price": [1.0, 2.0, float("nan")],
    }
    feature_set = feature_file(
        "name: price, kind: dense",
        sources="{events: {path: events.parquet, where: paid - cost > 0 and price > 0}}",
    )
    found = scan_events(feature_set, store(events=events)).collect(engine="streaming")
    assert found.rows() == [(1, 10, 9, 2.0)]
    assert found.schema["cost"] == pl.UInt8


def test_what_writers_keep_for_themselves_is_no_data(feature_file, store):
    data_dir = store(log__a={"a": [1]}, log___b={"a": [2]})
    for name in ("_temporary/0", "day/_temporary", "day", ".hidden"):
        (data_dir / "log" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(data_dir / "log/a.parquet", data_dir / "log" / name / "c.parquet")

    def found(path):
        feature_set = feature_file(
            "name: a, kind: categorical", sources=f"{{events: {{path: '{path}'}}}}"
        )
        files = source_files(feature_set, data_dir)["events"]
        return [file.relative_to(data_dir / "log").as_posix() for file in files]

    assert found("log/*.parquet") == ["a.parquet"]
    assert found("log/**/*.parquet") == ["a.parquet", "day/c.parquet"]
    assert found("log/_temporary/*/*.parquet") == ["_temporary/0/c.parquet"]
    assert found("log/_*.parquet") == ["_b.parquet"]
    with pytest.raises(DataError, match="no file matches"):
        found("log/*/*/c.parquet")


def test_files_of_globs_are_sorted_and_lists_keep_their_order(feature_file, store):
    data_dir = store(log__b={"a": [3]}, log__a={"a": [1, 2]}, log__c={"a": [4]})
    rows = {}
    for path in ("'log/*.parquet'", "[log/c.parquet, log/a.parquet]"):
        feature_set = feature_file(
            "name: a, kind: categorical", sources=f"{{events: {{path: {path}, file_column: f}}}}"
        )
        rows[path] = scan_events(feature_set, data_dir).select(ROW, "a", "f").collect().rows()
    a, b, c = "a.parquet", "b.parquet", "c.parquet"
    assert list(rows.values()) == [
        [(0, 1, a), (1, 2, a), (2, 3, b), (3, 4, c)],
        [(0, 4, c), (1, 1, a), (2, 2, a)],
    ]
    assert source_files(feature_set, data_dir) == {
        "events": [data_dir / "log/c.parquet", data_dir / "log/a.parquet"]
    }


@pytest.mark.parametrize(
    ("values", "dtype", "unit", "expected"),
    [
        ([1_500], pl.Int64, "ms", datetime(1970, 1, 1, 0, 0, 1, 500_000)),
        ([1_500_999], pl.Int64, "ns", datetime(1970, 1, 1, 0, 0, 0, 1500)),
        ([1.5], pl.Float32, "s", datetime(1970, 1, 1, 0, 0, 1, 500_000)),
        ([-1], pl.Int32, "s", datetime(1969, 12, 31, 23, 59, 59)),
        ([date(2020, 1, 2)], pl.Date, None, datetime(2020, 1, 2)),
        ([datetime(2020, 1, 2)], pl.Datetime("ns"), None, datetime(2020, 1, 2)),
        ([datetime(2020, 1, 2, 12)], pl.Datetime("ms", "Asia/Tokyo"), None,
         datetime(2020, 1, 2, 3)),
        ([17], pl.UInt16, None, 17),
    ],
)  # fmt: skip
def test_times(feature_file, store, values, dtype, unit, expected):
    time = f"{{column: t, unit: {unit}}}" if unit else "t"
    feature_set = feature_file("name: u, kind: categorical", top=f"entity: {{time: {time}}}")
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        series = pl.Series(values).dt.replace_time_zone(dtype.time_zone).cast(dtype)
    else:
        series = pl.Series(values, dtype=dtype)
    data_dir = store(events={"t": series, "u": [1]})
    assert scan_events(feature_set, data_dir).collect()["t"].to_list() == [expected]


def test_a_file_is_read_once(feature_file, store):
    data_dir = store(log__b={"a": [3]}, log__a={"a": [1, 2]})
    feature_set = feature_file(
        "name: a, kind: categorical", sources="{events: {path: [log/a.parquet, 'log/*.parquet']}}"
    )
    with pytest.raises(DataError, match=r"events: a file is named twice, got .*/log/a.parquet"):
        source_files(feature_set, data_dir)


@pytest.mark.parametrize("split", ["temporal, fractions: [0.6, 0.2, 0.2]", "random"])
def test_files_that_cannot_be_read_to_the_end(feature_file, store, split):
    data_dir = store(events={"t": [1, 2], "x": ["1", "n/a"]})
    feature_set = feature_file(
        "name: x, kind: categorical",
        sources="{events: {path: events.parquet, where: 'cast(x as int) < 5'}}",
        top=f"entity: {{time: t}}\nsplit: {{kind: {split}}}",
    )
    with pytest.raises(DataError, match=r"events.parquet: an expression or file cannot be read"):
        fit_file(feature_set, data_dir)


@pytest.mark.parametrize(
    ("number", "unit", "is_possible"),
    [
        (1_700_000_000, "s", True),
        (-(10**9), "s", True),
        (1_700_000_000_000, "s", False),
        (1_700_000_000_000_000_000, "s", False),  # wraps around
        (1_700_000_000_000, "ms", True),
        (1_700_000_000_000_000, "ms", False),
        (1_700_000_000_000_000_000, "us", False),
    ],
)
def test_times_beyond_the_year_5000_have_another_unit(
    feature_file, store, number, unit, is_possible
):
    data_dir = store(events={"t": [number, number + 1], "x": [1, 2]})
    feature_set = feature_file(
        "name: x, kind: categorical", top=f"entity: {{time: {{column: t, unit: {unit}}}}}"
    )
    if is_possible:
        fit_file(feature_set, data_dir)
        return
    with pytest.raises(DataError, match=r"entity.time \(column 't'\): .*set entity.time.unit to"):
        fit_file(feature_set, data_dir)


@pytest.mark.parametrize(
    ("time", "values", "message"),
    [
        ("{column: t, unit: s}", [datetime(2020, 1, 1)], "unit is for numbers"),
        ("t", ["2020-01-01"], "must be a number, date or datetime, got type String"),
    ],
)
def test_times_of_wrong_type(feature_file, store, time, values, message):
    feature_set = feature_file("name: u, kind: categorical", top=f"entity: {{time: {time}}}")
    (found,) = mistakes(feature_set, store(events={"t": values, "u": [1]}))
    assert found.startswith(f"entity.time: column 't' {message}")


def test_missing_columns_are_reported_together(feature_file, store):
    feature_set = feature_file(
        "name: genres, kind: categorical",
        "name: y, kind: dense, expr: x + xx",
        sources=JOINED,
        top="entity: {user: user, item: i}\nlabel: {name: liked}\nweight: w * 2\n"
        "split: {kind: column, column: part}",
    )
    data_dir = store(events=EVENTS, items={"i": [7], "genre": ["a"]})
    available = "available genre, i, t, u, x"
    where = "in events, items"
    assert mistakes(feature_set, data_dir) == [
        f"entity.user: no column 'user' {where}; {available}",
        f"label.liked: no column 'liked' {where}; {available}",
        f"weight: no column 'w' {where}; {available}",
        f"split.column: no column 'part' {where}; {available}",
        f"features.genres: no column 'genres' {where}; did you mean 'genre'?; {available}",
        f"features.y: no column 'xx' {where}; did you mean 'x'?; {available}",
    ]
    assert len(mistakes(feature_set, data_dir, require_labels=False)) == 3


def test_columns_time_and_types_are_reported_together(feature_file, store):
    feature_set = feature_file(
        "name: x, kind: categorical",
        "name: y, kind: dense, expr: x + xx",
        "name: z, kind: categorical, like: w",
        "name: w, kind: categorical",
        "name: hour, kind: categorical, expr: extract(hour from t)",
        "name: h, kind: sequence, of: [x, w], max_length: 2, where: x + 1",
        top="entity: {user: u, item: item, time: t}",
    )
    readers = ("entity.item", "features.y", "features.z", "features.w")
    names = [f"{reader}: no column" for reader in readers]
    types = [
        "entity.time: column 't' must be a number, date or datetime, got type String",
        "features.x (column 'x'): must be whole numbers, text or booleans, got type Float64",
        "features.h.where: must be a condition, true or false",
    ]
    events = EVENTS | {"t": ["a", "b", "c", "d"]}
    rest = {name: [1, 2, 3, 4] for name in ("item", "xx", "z", "w")}
    for data, starts in ((events, names + types), (events | rest, types)):
        found = mistakes(feature_set, store(events=data))
        assert len(found) == len(starts), found
        assert all(map(str.startswith, found, starts)), found


def test_keys_collisions_and_reserved_names(feature_file, store):
    feature_set = feature_file("name: x, kind: dense", sources=JOINED)
    data_dir = store(events=EVENTS | {"_row": [0] * 4}, items=ITEMS)
    assert mistakes(feature_set, data_dir) == [
        "sources.items: column 'x' is also in events; rename one of them",
        "sources.events: column name '_row' is reserved; rename it",
    ]
    feature_set = feature_file("name: genre, kind: categorical", sources=JOINED)
    twice = {"i": [9, 7, 9, None, None], "genre": list("abcde")}
    assert mistakes(feature_set, store(events=EVENTS, items=twice)) == [
        "sources.items: key 'i' must be unique, got 9 in 2 rows (1 such values); "
        "drop the duplicates"
    ]
    text = {"i": ["9"], "genre": ["a"]}
    assert mistakes(feature_set, store(items=text)) == [
        "sources.items.on: key 'i' must be of one type in both tables, got Int64 in the events "
        "and String in items; convert one"
    ]
    assert mistakes(feature_set, store(items={"item": [9], "genre": ["a"]})) == [
        "sources.items.on: no column 'i' in items; available genre, item"
    ]


def test_an_unused_column_may_be_in_two_tables(feature_file, store):
    feature_set = feature_file("name: genre, kind: categorical, fill: ''", sources=JOINED)
    frame = scan_events(feature_set, store(events=EVENTS, items=ITEMS))
    assert frame.collect()["x"].to_list() == EVENTS["x"]


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        ([1.5], "categorical", "must be whole numbers, text or booleans, got type Float64; use "
         "kind bucketized, or cast it in expr"),
        ([[1.5]], "categorical", "must be whole numbers, text or booleans, got type List(Float64)"),
        ([1], "categorical, split: ','", "split is for text, got type Int64; drop `split`"),
        ([1], "categorical, fill: none", "fill must be of the column's type Int64, got 'none'"),
        (["a"], "categorical, fill: 3", "fill must be of the column's type String, got 3"),
        ([True], "categorical, fill: 1", "fill must be of the column's type Boolean, got 1"),
        (["a"], "categorical, encoding: {kind: identity, size: 3}",
         "encoding identity needs whole numbers, got type String; use vocab or hash"),
        (["a"], "dense", "must be a number or boolean, got type String"),
        ([[1]], "bucketized, quantiles: 3", "must be a number or boolean, got type List(Int64)"),
        ([1], "vector, size: 3", "must be a list of numbers, got type Int64"),
        (pl.Series([[1, 2]], dtype=pl.Array(pl.Int8, 2)), "vector, size: 3",
         "must have 3 numbers, got 2; set `size: 2`"),
    ],
)  # fmt: skip
def test_types_that_do_not_fit(feature_file, store, column, kind, message):
    feature_set = feature_file(f"name: c, kind: {kind}")
    (found,) = mistakes(feature_set, store(events={"c": column}))
    assert found.startswith(f"features.c (column 'c'): {message}")


def test_expressions_and_conditions_that_do_not_fit(feature_file, store):
    feature_set = feature_file(
        "name: u, kind: categorical",
        "name: s, kind: dense, expr: lower(u)",
        "name: h, kind: sequence, of: [l, i], max_length: 2, where: u + 1",
        "name: l, kind: categorical",
        "name: i, kind: categorical, column: l",
        top=LOG + "\nlabel: {name: y, expr: l, where: u}",
    )
    found = mistakes(feature_set, store(events=EVENTS | {"l": [[1]] * 4}))
    assert found[0].startswith("features.s: cannot be computed from this data (")
    assert found[1:] == [
        "features.h.where: must be a condition, true or false, got 'u + 1' of type Int64",
        "label.y.where: must be a condition, true or false, got 'u' of type Int64",
        "label.y: must be a number or boolean, got type List(Int64)",
        "features.h.of: an event has one item, got 'i', whose column is of type List(Int64); "
        "make an event of each item in the data",
    ]


def test_files_that_cannot_be_read(feature_file, store):
    feature_set = feature_file("name: a, kind: categorical", sources="{events: 'p*.parquet'}")
    data_dir = store(ratings={"a": [1]}, sub__x={"a": [1]})
    assert mistakes(feature_set, data_dir) == ["sources.events: no file matches 'p*.parquet'"]
    for path, message in {
        "rating.parquet": "sources.events: no such file, got 'rating.parquet'; "
        "did you mean 'ratings.parquet'?",
        "sub": "sources.events: is a directory, got 'sub'; write `sub/*.parquet`",
    }.items():
        feature_set = feature_file("name: a, kind: categorical", sources=f"{{events: {path}}}")
        assert mistakes(feature_set, data_dir) == [message]
    whole = (data_dir / "ratings.parquet").read_bytes()
    (data_dir / "ratings.parquet").write_bytes(whole[: len(whole) // 2])
    feature_set = feature_file("name: a, kind: categorical", sources="{events: ratings.parquet}")
    (found,) = mistakes(feature_set, data_dir)
    assert found.startswith("ratings.parquet: is no readable Parquet file (")
    store(ratings={"a": pl.Series([], dtype=pl.Int64)})
    assert mistakes(feature_set, data_dir) == ["sources.events: has no rows, got ratings.parquet"]


def test_files_of_one_source_must_agree(feature_file, store):
    feature_set = feature_file("name: a, kind: categorical", sources="{events: 'p*.parquet'}")
    data_dir = store(p1={"a": [1], "b": [1]}, p2={"a": ["x"]})
    assert mistakes(feature_set, data_dir) == [
        "p2.parquet: column 'a' must be of type Int64, as in p1.parquet, got type String",
        "p2.parquet: column 'b' must be of type Int64, as in p1.parquet, got no such column",
    ]
