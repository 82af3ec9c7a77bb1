"""Which files `init` joins, and how."""

import re

import polars as pl
import pytest
from proposed import NUM_ROWS, base, left_out, line_of

from features.errors import DataError
from features.infer.proposal import infer
from features.infer.text import feature_text
from features.load import parse_feature_set
from features.split_spec import ColumnSplit, TemporalSplit


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
