"""Every row of every file is in one part, in order, whatever the sizes."""

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataError
from features.fit import fit_schema
from features.load import parse_feature_set
from recsys.scoring.files import InputFile, find_sources, partition_types
from recsys.scoring.plan import Plan, Settings, cut, differences
from recsys.scoring.reading import EventReader

FEATURES = """
sources: {events: log.parquet}
entity: {user: user}
features:
  - {name: user, kind: categorical}
  - {name: empty, kind: categorical, fill: none}
  - {name: size, kind: dense, fill: 0}
"""
GROUPS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=5)


@given(groups=GROUPS, size=st.integers(1, 12))
def test_parts_have_every_row_once_in_order(groups, size):
    parts = list(cut(groups, rows_per_part=size))
    found = [
        (piece.file, row)
        for pieces in parts
        for piece in pieces
        for row in range(piece.start, piece.start + piece.num_rows)
    ]
    assert found == [(f, row) for f, lengths in enumerate(groups) for row in range(sum(lengths))]
    first = 0
    for pieces in parts:
        assert 0 < sum(piece.num_rows for piece in pieces) <= size
        for piece in pieces:
            assert piece.first_row == first
            first += piece.num_rows


def test_cuts_lie_between_row_groups_that_fit():
    parts = list(cut([[4, 4, 4], [30], [4]], rows_per_part=10))
    sizes = [[(p.file, p.start, p.num_rows) for p in pieces] for pieces in parts]
    assert sizes == [
        [(0, 0, 8)],
        [(0, 8, 4)],
        [(1, 0, 10)],
        [(1, 10, 10)],
        [(1, 20, 10)],
        [(2, 0, 3)],
        [(2, 3, 1)],
    ]


def test_the_last_eighth_lies_in_small_parts():
    parts = cut([[330], [270]], rows_per_part=100)
    sizes = [sum(piece.num_rows for piece in pieces) for pieces in parts]
    assert sizes == [100, 100, 100, 30, 100, 100, 25, 25, 20]
    assert [p.num_rows for [p] in cut([[100]], rows_per_part=100)] == [100]


def reader_of(directory, *, size, keys=(), sources=None, features=FEATURES):
    feature_set = parse_feature_set(features, name="features.yaml")
    values = {"user": ["ä", "b"], "empty": ["x", "y"], "brand": ["a", "b"], "size": [1.0, 2.0]}
    train = pl.LazyFrame({"_row": [0, 1], "_split": ["train"] * 2, **values})
    schema = fit_schema(feature_set, train)
    files = find_sources(feature_set, str(directory), given=sources or {})
    plan = Plan("bundle", Settings(key_columns=keys, rows_per_part=size), files)
    return EventReader(schema, plan), plan


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4), size=st.integers(1, 9))
def test_rows_in_are_rows_out(tmp_path_factory, lengths, size):
    if not sum(lengths):
        lengths = [*lengths, 1]
    directory, first = tmp_path_factory.mktemp("log"), 0
    users = [["ä", "b", "日本", ""][row % 4] for row in range(sum(lengths))]
    for number, length in enumerate(lengths):
        nothing = pl.Series([None] * length)
        frame = pl.DataFrame({"user": pl.Series(users[first : first + length], dtype=pl.String)})
        frame = frame.with_columns(empty=nothing.cast(pl.String), size=nothing.cast(pl.Float32))
        frame.write_parquet(directory / f"{number}.parquet", row_group_size=3)
        first += length
    reader, _ = reader_of(directory, size=size, sources={"events": f"{directory}/*.parquet"})
    found, rows, ids = [], [], []
    for part in range(reader.num_parts):
        events, rejects = reader.checked(reader.read(part), reject=True)
        assert not len(rejects)
        assert events.num_read == len(events.frame)
        found += events.frame["user"].to_list()
        rows += events.frame["_row"].to_list()
        ids += reader.encode(events)["user"].to_list()
    assert found == users
    assert rows == list(range(len(users)))
    assert np.count_nonzero(ids) == sum(user in ("ä", "b") for user in users)


def test_folders_name_columns(tmp_path):
    for day, lists in (("2024-01-31", 3), ("2024-02-01", 2)):
        folder = tmp_path / "log" / f"day={day}" / "shop=a%20b"
        folder.mkdir(parents=True)
        frame = pl.DataFrame({"user": ["b"] * lists, "empty": ["x"] * lists, "size": [1.0] * lists})
        frame.write_parquet(folder / "x.parquet")
        (folder / "_SUCCESS").touch()
        (folder / ".x.parquet").write_bytes(b"half a file")
        (folder / "_temporary").mkdir()
        (folder / "_temporary" / "x.parquet").write_bytes(b"half a file")
    keys = ("day", "shop")
    for path in (
        "log",
        "log/",
        "log/*/*/x.parquet",
        "log/**",
        "log/**/*.parquet",
        "log/day=20*/**/x.parquet",
    ):
        for prefix in (f"{tmp_path}/", f"file://{tmp_path}/"):
            reader, _ = reader_of(tmp_path, size=4, keys=keys, sources={"events": prefix + path})
            frames = [reader.read(part).frame for part in range(reader.num_parts)]
            days = pl.concat(frames)
            assert days["day"].dtype == pl.Date
            assert days["day"].dt.to_string().to_list() == ["2024-01-31"] * 3 + ["2024-02-01"] * 2
            assert set(days["shop"]) == {"a b"}


@pytest.mark.parametrize(
    ("names", "dtype"), [(("7", "-12", "0"), pl.Int64), (("007", "12"), pl.String)]
)
def test_folders_are_numbers_where_these_have_that_text(tmp_path, names, dtype):
    files = tuple(InputFile(name, 1, 1, (1,), {"shop": name}) for name in names)
    assert partition_types(files) == {"shop": dtype}


WITH_ITEMS = """
sources: {events: log.parquet, items: {path: items.parquet, on: item}}
entity: {user: user}
features:
  - {name: brand, kind: categorical}
  - {name: size, kind: dense}
"""


def write_items(directory, sizes, **columns):
    directory.mkdir(parents=True)
    frame = pl.DataFrame({"item": sizes.keys(), "size": sizes.values(), **columns})
    frame.write_parquet(directory / "items.parquet")


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_folders_name_columns_of_their_own_source(tmp_path, prefix):
    for brand, sizes in (("a", {1: 1.0, 2: 2.0}), ("b", {3: 3.0})):
        write_items(tmp_path / "items" / f"brand={brand}", sizes)
    pl.DataFrame({"user": ["x"] * 4, "item": [3, 2, 1, 4]}).write_parquet(tmp_path / "log.parquet")
    sources = {"items": f"{prefix}{tmp_path}/items"}
    reader, _ = reader_of(tmp_path, size=4, sources=sources, features=WITH_ITEMS)
    assert reader.read(0).frame["brand"].to_list() == ["b", "a", "a", None]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_folders_above_the_data_name_no_columns(tmp_path, prefix):
    data = tmp_path / "size=9" / "brand=b"
    write_items(data, {1: 1.0, 2: 2.0}, brand=["a", "b"])
    pl.DataFrame({"user": ["x"] * 3, "item": [2, 1, 2]}).write_parquet(data / "log.parquet")
    for sources in (
        None,
        {"items": f"{prefix}{data}/items.parquet"},
        {"items": f"{prefix}{data}/item*"},
    ):
        reader, plan = reader_of(f"{prefix}{data}", size=4, sources=sources, features=WITH_ITEMS)
        assert reader.read(0).frame["size"].to_list() == [2.0, 1.0, 2.0]
        assert {file.path for file in plan.log} == {f"{prefix}{data}/log.parquet"}


@pytest.mark.parametrize("path", ["day=7/shop=a", "day=7/shop=a/x.parquet", "day=7/*/x.parquet"])
@pytest.mark.parametrize("start", ["", "{}/", "file://{}/"])
def test_folders_of_a_path_that_is_given_are_columns(tmp_path, monkeypatch, path, start):
    folder = tmp_path / "day=7" / "shop=a"
    folder.mkdir(parents=True)
    frame = pl.DataFrame({"user": ["b"] * 4, "empty": ["x"] * 4, "size": [1.0] * 4})
    frame.write_parquet(folder / "x.parquet")
    monkeypatch.chdir(tmp_path)
    sources = {"events": start.format(tmp_path) + path}
    reader, _ = reader_of(tmp_path, size=4, keys=("day", "shop"), sources=sources)
    rows = reader.read(0).frame
    assert rows["day"].to_list() == [7] * 4
    assert rows["shop"].to_list() == ["a"] * 4


def test_the_same_files_below_another_folder_are_another_plan(tmp_path, monkeypatch):
    folder = tmp_path / "day=1" / "shop=2"
    folder.mkdir(parents=True)
    frame = pl.DataFrame({"user": ["b"] * 4, "empty": ["x"] * 4, "size": [1.0] * 4})
    frame.write_parquet(folder / "x.parquet")
    _, one = reader_of(tmp_path, size=4, keys=("shop",), sources={"events": str(tmp_path)})
    monkeypatch.chdir(folder.parent)
    _, other = reader_of(tmp_path, size=4, keys=("shop",), sources={"events": "."})
    assert differences(json.loads(one.to_json()), other) == [
        f"of other input: {folder / 'x.parquet'} has another partition, got {{'shop': '2'}}; "
        f"begun with {{'day': '1', 'shop': '2'}}"
    ]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_name_that_is_there_is_no_glob(tmp_path, prefix, monkeypatch):
    data = tmp_path / "data[1]"
    data.mkdir()
    frame = pl.DataFrame({"user": ["b"] * 4, "empty": ["x"] * 4, "size": [1.0] * 4})
    for name in ("log", "a[b]"):
        frame.write_parquet(data / f"{name}.parquet")
    everywhere = FEATURES.replace("log.parquet", "'*.parquet'")
    for features, path, num_files in (
        (FEATURES, "", 1),
        (everywhere, "", 2),
        (FEATURES, "/*.parquet", 2),
        (FEATURES, "/a[b].parquet", 1),
    ):
        if features is everywhere and prefix:
            continue
        _, plan = reader_of(f"{prefix}{data}{path}", size=4, features=features)
        assert len(plan.log) == num_files
    monkeypatch.chdir(data)
    assert len(reader_of("*.parquet", size=4)[1].log) == 2


ITEMS = "sources: {events: log.parquet, items: {path: items.parquet, on: user}}"


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_other_sources_lie_above_the_first_name_of_a_glob(tmp_path, prefix):
    features = FEATURES.replace("sources: {events: log.parquet}", ITEMS)
    feature_set = parse_feature_set(features, name="features.yaml")
    frame = pl.DataFrame({"user": ["b"] * 4, "empty": ["x"] * 4, "size": [1.0] * 4})
    frame.write_parquet(tmp_path / "items.parquet")
    for day in "12":
        (tmp_path / f"day={day}" / "a").mkdir(parents=True)
        frame.write_parquet(tmp_path / f"day={day}" / "a" / "x.parquet")
    for path in ("day=*/a/*.parquet", "day=*/a/x.parquet", "day=[1-2]/a/x.parquet"):
        files = find_sources(feature_set, f"{prefix}{tmp_path}/{path}", given={})
        assert len(files["events"]) == 2
        assert [file.name.rpartition("/")[2] for file in files["items"]] == ["items.parquet"]


def test_files_that_cannot_be_read(tmp_path):
    frame = pl.DataFrame({"user": ["b"] * 4, "empty": ["x"] * 4, "size": [1.0] * 4})
    table = frame.to_arrow()
    twice = pa.Table.from_arrays(
        [*table.columns, table.column("size")], names=[*table.column_names, "size"]
    )
    pq.write_table(twice, tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log.parquet: .* cannot be read: .*'size'.*"):
        reader_of(tmp_path, size=4)
    frame.write_parquet(tmp_path / "log.parquet")
    reader, _ = reader_of(tmp_path, size=4)
    (tmp_path / "log.parquet").unlink()
    with pytest.raises(DataError, match=r"log.parquet: .* cannot be read: No such file"):
        reader.read(0)


def test_what_is_not_there(tmp_path):
    (tmp_path / "nothing").mkdir()
    for path in ("nothing", "gone", "nothing/*.parquet"):
        with pytest.raises(DataError, match=r"sources.events: (no Parquet file|cannot be listed)"):
            reader_of(tmp_path, size=4, sources={"events": str(tmp_path / path)})


def test_plans_differ_by_bundle_settings_and_files(tmp_path):
    frame = pl.DataFrame({"user": ["b"] * 4, "empty": ["x"] * 4, "size": [1.0] * 4})
    frame.write_parquet(tmp_path / "log.parquet")
    _, plan = reader_of(tmp_path, size=4)
    written = json.loads(plan.to_json())
    assert differences(written, plan) == []
    assert differences(written, Plan("other", plan.settings, plan.sources)) == [
        "of another bundle, got other; begun with bundle"
    ]
    assert differences({**written, "format": 1}, plan) == [
        "of another version, got format 3; begun with 1"
    ]
    _, smaller = reader_of(tmp_path, size=3)
    assert differences(written, smaller) == [
        "of another setting rows_per_part, got 3; begun with 4"
    ]
    frame.write_parquet(tmp_path / "log.parquet")  # the same again, at another time
    _, changed = reader_of(tmp_path, size=4)
    [found] = differences(written, changed)
    assert "log.parquet has another time of change" in found
    assert len({plan.digest, smaller.digest, changed.digest}) == 3
