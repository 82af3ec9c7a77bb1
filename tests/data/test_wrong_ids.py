"""A damaged store: messages name the feature, the id, its file and row, and the raw value."""

import json
import re
import shutil

import numpy as np
import polars as pl
import pytest
from training.runs import data_module, events, write_inputs

from features.columns import ROW
from features.errors import DataError, SchemaMismatchError
from recsys.data.collate import RankingCollate
from recsys.data.jagged import Ids, UnknownIdsError
from recsys.data.rows import Rows
from recsys.data.store import MANIFEST, file_bytes

MEND = "delete the store, and it is built again"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Inputs and their stores."""
    directory = write_inputs(tmp_path_factory.mktemp("wrong"))
    for kind in ("ranking", "timed"):
        assert data_module(directory, kind).store
    return directory


@pytest.fixture
def inputs(built, tmp_path):
    return shutil.copytree(built, tmp_path / "inputs")


def signed(store):
    """Lets the store pass for whole."""
    file = store / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"file_bytes": file_bytes(store)}))


def spoiled(data, split, **values):
    """Set columns in row 3 of a split of the store; gives the file, and the row of the log."""
    store = data.store.path
    [file] = data.store.example_files(split)
    frame = pl.read_parquet(file)
    in_row = pl.int_range(pl.len()) == 3
    changed = [
        pl.when(in_row).then(value).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
        if value is not ...
    ]
    dropped = [name for name, value in values.items() if value is ...]
    frame.with_columns(changed).drop(dropped).write_parquet(file)
    signed(store)
    return file, int(frame[ROW][3])


def told(data, *, workers=0, split="train"):
    """What reading an epoch says."""
    data.num_workers = workers
    with pytest.raises((DataError, SchemaMismatchError)) as raised:
        list(data.train_dataloader() if split == "train" else data.test_dataloader())
    return raised.value


@pytest.mark.parametrize("workers", [0, 1])
def test_file_row_and_raw_value_of_an_example(inputs, workers):
    data = data_module(inputs, "ranking")
    file, row = spoiled(data, "train", user_id=pl.lit(200, pl.UInt8))
    error = told(data_module(inputs, "ranking"), workers=workers)
    raw = events(inputs)["user_id"][row]
    num_ids = data.schema.num_ids("user_id")
    assert error.mistakes == (
        f"features.user_id: id that the schema does not know, got 200 in row 3 of {file}, encoded "
        f"from {raw!r} in row {row} of {inputs}/data/events.parquet; allowed 0 ... {num_ids - 1}; "
        f"{MEND}",
    )


def test_raw_values_of_joined_files_and_of_expressions(inputs):
    data = data_module(inputs, "ranking")
    wrong = pl.lit([1, 250], pl.List(pl.UInt8))
    file, row = spoiled(data, "test", tags=wrong, hour=pl.lit(99, pl.UInt8))
    items = pl.read_parquet(inputs / "data" / "items.parquet")
    event = events(inputs).row(row, named=True)
    [tags] = items.filter(pl.col("item_id") == event["item_id"])["tags"]
    said = told(data_module(inputs, "ranking"), split="test").mistakes
    assert len(said) == 2
    for mistake, raw in zip(said, (tags, event["timestamp"].hour), strict=True):
        assert f"in row 3 of {file}, encoded from {raw!r} in row {row} of {inputs}/data" in mistake
    assert said[0].startswith("features.tags: id that the schema does not know, got 250 in row 3")


def test_a_log_that_is_gone_is_left_out(inputs):
    data = data_module(inputs, "ranking")
    file, _ = spoiled(data, "train", user_id=pl.lit(200, pl.UInt8))
    again = data_module(inputs, "ranking")
    assert again.store
    (inputs / "data" / "events.parquet").unlink()
    [mistake] = told(again).mistakes
    assert f"got 200 in row 3 of {file}; allowed" in mistake


@pytest.mark.parametrize("kind", ["ranking", "timed"])
def test_the_user_of_an_id_in_a_history(inputs, kind):
    data = data_module(inputs, kind)
    store = data.store
    [file] = (store.path / "histories").rglob("values/item_id.npy")
    offsets = np.load(store.path / "histories" / "offsets.npy")
    ids = np.load(file)
    ids[offsets[7] : offsets[8]] = 222
    np.save(file, ids)
    [user] = pl.read_parquet(store.users_file)["user"][7:8]
    said = [told(data_module(inputs, kind), split=split) for split in ("train", "test")]
    for error in said:
        assert error.mistakes[0].startswith(
            f"features.history.item_id: id that the schema does not know, got 222 in the history "
            f"of users {user!r}, {file}, and "
        )
        assert error.mistakes[0].endswith(f"; {MEND}")


def test_rows_that_share_a_history_are_named_by_one_of_them():
    class Reader:
        columns = ("u",)

        def ids(self, rows):
            return [Ids("h.item", rows["u"] * 10, np.ones(len(rows), np.int64), 60)]

    collate = RankingCollate.__new__(RankingCollate)
    collate._sequences = [Reader()]
    rows = Rows({"u": np.array([3, 7, 3, 7, 5])}, 5)  # of three histories
    with pytest.raises(UnknownIdsError) as raised:
        collate._packed_histories(rows)
    assert [(item.example, item.value) for item in raised.value.found] == [(1, 70)]


def test_a_target_beyond_the_catalogue(inputs):
    data = data_module(inputs, "timed")
    file, row = spoiled(data, "test", item_id=pl.lit(77, pl.UInt8))
    raw = events(inputs)["item_id"][row]
    [mistake] = told(data_module(inputs, "timed"), split="test").mistakes
    assert (
        f"features.item_id: id that the schema does not know, got 77 in row 3 of {file}, enc"
        in (mistake)
    )
    assert f"in row 3 of {file}, encoded from {raw!r} in row {row} of" in mistake


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("hour", None, "features.hour: no value in row 3 of FILE, got null; allowed whole numbers"),
        ("tags", pl.lit([1, None], pl.List(pl.UInt8)), "features.tags: no value in row 3 of FILE"),
        ("tags", None, "features.tags: no value in row 3 of FILE, got null; allowed whole numbers"),
        (
            "hour",
            pl.lit(0.5),
            "features.hour: ids are no whole numbers, got float64; allowed",
        ),
        ("hour", ..., "FILE: has no column 'hour', got "),
        ("_user", pl.lit(4000), "histories: has no history of this row, got 4000; allowed 0 ..."),
        ("_position", pl.lit(4000), "histories: position outside of history row"),
    ],
)
def test_what_is_no_id_is_named(inputs, column, value, said):
    data = data_module(inputs, "ranking")
    file, _ = spoiled(data, "train", **{column: value})
    [mistake] = told(data_module(inputs, "ranking")).mistakes
    assert said.replace("FILE", str(file)) in mistake


def test_lists_whose_offsets_fall(inputs):
    data = data_module(inputs, "timed")
    file = data.store.path / "histories" / "value_offsets" / "tags.npy"
    offsets = np.load(file)
    offsets[1:-1] = offsets[-1] + 50
    np.save(file, offsets)
    words = re.escape(f"{file}: are no offsets of lists, got ")
    assert re.match(words, told(data_module(inputs, "timed")).mistakes[0])
