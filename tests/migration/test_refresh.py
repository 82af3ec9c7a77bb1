"""`refresh`: new values get rows, values that were not seen for long leave."""

from datetime import timedelta

import polars as pl
import pytest
import torch
from commands import recsys_command
from migration.made import write_made

from features.fit import fit_schema
from features.load import load_feature_set, parse_feature_set
from features.sources import scan_events
from features.split import assign_split
from recsys.checkpoint import MODEL, read_schema, read_tensors

TEXT = """
sources: {events: events.parquet}
entity: {time: {column: at, unit: s}}
label: {name: click}
split: {kind: random, fractions: [1.0, 0.0, 0.0]}
features:
  - {name: item, kind: categorical, dim: 8}
  - {name: price, kind: dense, standardize: true}
  - {name: size, kind: bucketized, quantiles: 4, dim: 8}
"""
DAY = int(timedelta(days=1).total_seconds())


def write_log(directory, items, *, start):
    directory.mkdir()
    count = len(items)
    pl.DataFrame(
        {
            "at": [start + DAY * number for number in range(count)],
            "item": items,
            "price": [float(number) for number in range(count)],
            "size": [1.0] * count,  # no quantile cuts it
            "click": [number % 2 for number in range(count)],
        }
    ).write_parquet(directory / "events.parquet")


def write_run(directory, before, now):
    """A made run of a log of items, and a newer log."""
    write_log(directory / "before", before, start=0)
    write_log(directory / "now", now, start=20 * DAY)
    feature_set = parse_feature_set(TEXT, name="features.yaml")
    events = scan_events(feature_set, directory / "before")
    made = fit_schema(feature_set, assign_split(feature_set, events))
    checkpoint = directory / "run" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    return directory, write_made(checkpoint, made)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path, list("aabbccdd"), list("aadeeffaaf"))


def refreshed(directory, *more, run="run", out="new"):
    arguments = ["refresh", directory / run, "--data", directory / "now"]
    return recsys_command(*arguments, "--out", directory / out, *more)


@pytest.mark.parametrize("expire", [None, "5d"])
def test_values_come_and_go(run, capsys, expire):
    directory, old = run
    assert refreshed(directory, *(["--expire", expire] if expire else [])) == 0
    printed = capsys.readouterr().out
    checkpoint = directory / "new" / "checkpoints" / "last.ckpt"
    found = read_schema(checkpoint)
    values = found.vocabularies["item"].values.to_list()
    # The last five days of the new log have e, f and a.
    assert values[: 1 if expire else 4] == (["a"] if expire else ["a", "b", "c", "d"])
    assert sorted(values) == sorted("aef" if expire else "abcdef")
    [rows] = [t for n, t in read_tensors(checkpoint, MODEL).items() if n.endswith("item.weight")]
    [before] = [t for n, t in old.items() if n.startswith(MODEL) and n.endswith("item.weight")]
    assert torch.equal(rows[: 2 if expire else 5], before[: 2 if expire else 5])
    assert found.moments["price"].mean == 3.5
    assert load_feature_set(directory / "new" / "features.yaml") == found.feature_set
    if expire:
        assert "item: 3 values left the vocabulary: 'b', 'c', 'd'" in printed
        dropped = pl.read_parquet(directory / "new" / "dropped.parquet")
        assert dropped["value"].to_list() == ["b", "c", "d"]


def test_a_second_refresh_on_the_same_data_changes_nothing(run, capsys):
    directory, _ = run
    found = []
    for before, after in (("run", "new"), ("new", "newer"), ("newer", "newest")):
        assert refreshed(directory, "--expire", "5d", run=before, out=after) == 0
        checkpoint = directory / after / "checkpoints" / "last.ckpt"
        found.append((read_schema(checkpoint), read_tensors(checkpoint, MODEL)))
    capsys.readouterr()
    schemas, tensors = zip(*found, strict=True)
    assert len({schema.fingerprint() for schema in schemas}) == 1
    for name, tensor in tensors[0].items():
        assert torch.equal(tensors[1][name], tensor), name
        assert torch.equal(tensors[2][name], tensor), name


def item_rows(tensors):
    [rows] = [t for n, t in tensors.items() if n.endswith("item.weight") and "fused" not in n]
    return rows


@pytest.mark.parametrize(
    ("before", "now", "first"),
    [
        (pl.Series([7, 7, 3], dtype=pl.UInt64), [-1, -1, 3], [7, 3, -1]),
        ([7, 7, 3], pl.Series([2**63, 2**63, 3], dtype=pl.UInt64), [7, 3, 2**63]),
    ],
)
def test_whole_numbers_of_another_type_go_on(tmp_path, capsys, before, now, first):
    directory, old = write_run(tmp_path, before, now)
    assert refreshed(directory) == 0
    assert "left the vocabulary" not in capsys.readouterr().out
    checkpoint = directory / "new" / "checkpoints" / "last.ckpt"
    assert read_schema(checkpoint).vocabularies["item"].values.to_list() == first
    rows = item_rows(read_tensors(checkpoint, MODEL))
    assert torch.equal(rows[:3], item_rows(old)[:3])


@pytest.mark.parametrize(
    ("before", "now"), [([1, 1, 0], ["1", "1", "0"]), ([True, True, False], [1, 1, 0])]
)
def test_values_of_another_kind_are_given_up_by_name(tmp_path, capsys, before, now):
    directory, old = write_run(tmp_path, before, now)
    (directory / "features.yaml").write_text(TEXT)
    command = ["migrate", directory / "run", "--features", directory / "features.yaml"]
    command += ["--data", directory / "now", "--out", directory / "new"]
    assert recsys_command(*command) == 2
    assert "item: cannot be kept: ids mean other things: values were" in capsys.readouterr().err
    assert recsys_command(*command, "--reset", "item") == 0
    assert "item: 2 values left the vocabulary" in capsys.readouterr().out
    rows = item_rows(read_tensors(directory / "new" / "checkpoints" / "last.ckpt", MODEL))
    assert not (rows == item_rows(old)).all(dim=1).any()


def test_mistakes_leave_nothing(run, capsys):
    directory, _ = run
    assert refreshed(directory, "--expire", "5 weeks") == 2
    assert "--expire" in capsys.readouterr().err
    assert refreshed(directory, "--expire", "900d") == 2
    assert not list(directory.glob("new*"))
