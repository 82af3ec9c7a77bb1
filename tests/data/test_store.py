"""The store and its batches against plain Python loops over the raw log."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import POSITION, ROW, SPLIT, USER, WEIGHT, label_column
from features.encode import encode
from features.load import load_feature_set
from features.sources import scan_events
from features.split import assign_split
from recsys.data.collate import RankingCollate
from recsys.data.loader import BatchLoader
from recsys.data.partitions import EncodedEvents
from recsys.data.sources import ParquetSource, Pieces
from recsys.data.store import prepare
from recsys.nn.cutting import to_own_histories

FEATURES = """
sources: {events: events.parquet}
entity: {user: user, item: item, time: {column: time, unit: s}}
label:
  - {name: click, where: "click IS NOT NULL"}
  - {name: buy, where: "click = 1"}
weight: "price + 1"
split: {kind: random, fractions: [0.6, 0.2, 0.2], seed: 1}
features:
  - {name: item, kind: categorical}
  - {name: hour, kind: bucketized, column: price, boundaries: [1.0, 2.0]}
  - {name: tags, kind: categorical, split: "|"}
  - {name: price, kind: dense}
  - {name: image, kind: vector, size: 2}
  - {name: seen, kind: sequence, of: [item, tags, hour], max_length: 3, times: time}
  - {name: clicked, kind: sequence, of: [tags, item], max_length: 2, where: "click = 1",
     times: "price - 2"}
"""
LABELS = (label_column("click"), label_column("buy"))


def raw_log(num_events, *, num_users, seed):
    rng = np.random.default_rng(seed)
    clicks = rng.integers(0, 2, num_events)
    names = ["", "Zoë", "日本", "a|b", *(f"u{i}" for i in range(40))]
    return pl.DataFrame(
        {
            "user": [names[i] for i in rng.integers(0, num_users, num_events)],
            "item": rng.integers(100, 112, num_events),
            "time": rng.integers(0, 5, num_events),  # many ties
            "click": [None if rng.random() < 0.2 else int(c) for c in clicks],
            "buy": rng.integers(0, 2, num_events),
            "price": rng.integers(0, 4, num_events).astype(float),
            "tags": [rng.choice(["x|é|é|", "日本", "|x", "y|x", "", None, "|"]) for _ in clicks],
            "image": rng.random((num_events, 2)).tolist(),
        },
        schema_overrides={"click": pl.Int64},
    )


def build(folder, log, *, features=FEATURES, parts=None, name="store"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.yaml").write_text(features)
    log.write_parquet(folder / "events.parquet")
    with pytest.MonkeyPatch.context() as patch:
        if parts is not None:
            patch.setattr(EncodedEvents, "num_parts", lambda self, max_memory_bytes: parts)
        return prepare(load_feature_set(folder / "features.yaml"), folder, folder / name)


def examples(store, split):
    files = store.example_files(split)
    return pl.concat([pl.read_parquet(file) for file in files]) if files else None


def earlier(log, row, *, where=lambda event: True):
    """Raw events of the same user before an event, oldest first."""
    events = list(enumerate(log.iter_rows(named=True)))
    user, time = log["user"][row], log["time"][row]
    before = [
        (e["time"], r, e)
        for r, e in events
        if e["user"] == user and (e["time"], r) < (time, row) and where(e)
    ]
    return [e for _, _, e in sorted(before, key=lambda x: x[:2])]


def tag_ids(event, known):
    return [known.get(tag, 0) for tag in (event["tags"] or "").split("|") if tag]


def hour(event):
    return int(event["price"] >= 1) + int(event["price"] >= 2)


def collate_of(store):
    feature_set = store.schema.feature_set
    names = [f for f in feature_set.features if f.kind == "sequence"]
    return RankingCollate(store.schema, histories={s.name: store.histories_of(s) for s in names})


def batches(store, split):
    collate = collate_of(store)
    source = ParquetSource(store.example_files(split), columns=(*collate.columns, ROW))
    rows = []

    def recording(some):
        rows.append(np.array(some[ROW]))
        return collate(some)

    loader = BatchLoader(source, collate=recording, batch_size=8, training=False)
    return [(r, b) for b, r in zip(list(loader), rows, strict=True)]


@given(num_events=st.integers(10, 80), num_users=st.integers(1, 30), seed=st.integers(0, 9))
@settings(max_examples=8, deadline=None)
def test_batches_are_what_the_raw_log_says(tmp_path_factory, num_events, num_users, seed):
    log = raw_log(num_events, num_users=num_users, seed=seed)
    store = build(tmp_path_factory.mktemp("raw"), log, parts=seed % 3 + 1)
    items = {None: 0, **{v: i + 1 for i, v in enumerate(store.schema.vocabularies["item"].values)}}
    tags = {v: i + 1 for i, v in enumerate(store.schema.vocabularies["tags"].values)}
    users = pl.read_parquet(store.users_file)["user"]
    seen_rows = []
    for split in ("train", "val", "test"):
        for rows, batch in batches(store, split):
            seen_rows += rows.tolist()
            ids, sequences = batch.ids.to_dict(), batch.sequences.to_dict()
            for i, row in enumerate(rows.tolist()):
                event = log.row(row, named=True)
                assert ids["item"].to_dense()[i].tolist() == [items.get(event["item"], 0)]
                assert ids["hour"].to_dense()[i].tolist() == [hour(event)]
                assert ids["tags"].to_dense()[i].tolist() == tag_ids(event, tags)
                history = earlier(log, row)[-3:]
                expected = [items.get(e["item"], 0) for e in history]
                assert sequences["seen.item"].to_dense()[i].tolist() == expected
                assert sequences["seen.hour"].to_dense()[i].tolist() == [hour(e) for e in history]
                clicked = earlier(log, row, where=lambda e: e["click"] == 1)[-2:]
                expected = [items.get(e["item"], 0) for e in clicked]
                assert sequences["clicked.item"].to_dense()[i].tolist() == expected
                for name, events in (("seen", history), ("clicked", clicked)):
                    lists = [tag_ids(e, tags) for e in events]
                    counts = sequences[f"{name}.tags.@count"].to_dense()[i].tolist()
                    assert counts == [len(each) for each in lists]
                    found = sequences[f"{name}.tags"].to_dense()[i].tolist()
                    assert found == [id for each in lists for id in each]
                for name, events in (("seen", [*history, event]), ("clicked", [*clicked, event])):
                    expected = [e["time"] if name == "seen" else e["price"] - 2 for e in events]
                    assert sequences[f"{name}.@time"].to_dense()[i].tolist() == expected
                assert batch.dense_BN[i].tolist() == pytest.approx(
                    [event["price"], *event["image"]]
                )
                buy = event["buy"] if event["click"] == 1 else np.nan
                expected = [event["click"], buy]
                assert batch.labels_BT[i].tolist() == pytest.approx(expected, nan_ok=True)
                assert batch.weights_B[i] == event["price"] + 1
                assert users[int(batch.users_B[i])] == event["user"]
    labelled = [row for row, click in enumerate(log["click"]) if click is not None]
    assert sorted(seen_rows) == labelled


def test_a_history_that_examples_share_is_there_once(tmp_path):
    store = build(tmp_path, raw_log(40, num_users=3, seed=0), parts=1)
    collate = collate_of(store)
    source = ParquetSource(store.example_files("train"), columns=collate.columns)
    rows = source.read(Pieces(*(np.array([n]) for n in (0, 0, 9))))
    assert collate(rows).histories_B is None
    index = np.array([5, 0, 5, 5, 8, 0])
    batch = collate(rows.take(index)).to(torch.device("cpu"))
    which = batch.histories_B.numpy()
    assert sorted(set(which)) == [0, 1, 2]
    assert np.array_equal(np.equal.outer(which, which), np.equal.outer(index, index))
    own, alone = to_own_histories(batch), collate(rows)
    assert own.histories_B is None
    for key, jagged in own.sequences.to_dict().items():
        expected = alone.sequences[key].to_dense()
        found = [one.tolist() for one in jagged.to_dense()]
        assert found == [expected[row].tolist() for row in index]
        assert batch.sequences[key].lengths()[3:].tolist() == [0, 0, 0]


def test_examples_hold_what_encode_gives(tmp_path):
    log = raw_log(60, num_users=9, seed=3)
    store = build(tmp_path, log)
    feature_set = store.schema.feature_set
    raw = assign_split(feature_set, scan_events(feature_set, tmp_path))
    encoded = encode(store.schema, raw, with_labels=True).collect()
    for split in ("train", "val", "test"):
        stored = examples(store, split).sort(ROW)
        expected = encoded.filter(
            (pl.col(SPLIT) == split) & pl.any_horizontal(pl.col(n).is_not_null() for n in LABELS)
        )
        assert stored.height == store.manifest.rows[split]
        names = [ROW, *LABELS, WEIGHT, "item", "hour", "tags", "price", "image"]
        expected = expected.select(names).cast(
            {"item": pl.UInt8, "hour": pl.UInt8, "tags": pl.List(pl.UInt8)}
        )
        assert stored.select(names).equals(expected)


@pytest.mark.parametrize("parts", [5, 100])
def test_parts_change_nothing(tmp_path, parts):
    log = raw_log(200, num_users=20, seed=5)
    whole, cut = (build(tmp_path / str(p), log, parts=p) for p in (1, parts))
    files = ["offsets.npy", "train_lengths.npy", "values/item.npy", "values/hour.npy"]
    files += ["values/tags.npy", "value_offsets/tags.npy"]
    files += [f"filtered/clicked/{f}" for f in files if "hour" not in f]
    files += ["values/seen.@time.npy", "filtered/clicked/values/clicked.@time.npy"]
    for file in files:
        one, other = (np.load(s.path / "histories" / file) for s in (whole, cut))
        np.testing.assert_array_equal(one, other)
    for path in ("", "filtered/clicked/"):
        values, offsets = (
            np.load(cut.path / "histories" / path / name / "tags.npy")
            for name in ("values", "value_offsets")
        )
        assert len(values) == offsets[-1] > 0
    assert pl.read_parquet(whole.users_file).equals(pl.read_parquet(cut.users_file))
    assert len(cut.example_files("train")) > 1
    for split in ("train", "val", "test"):
        assert examples(whole, split).sort(ROW).equals(examples(cut, split).sort(ROW))


def test_memory_decides_the_number_of_parts(tmp_path):
    build(tmp_path, raw_log(200, num_users=20, seed=5))
    feature_set = load_feature_set(tmp_path / "features.yaml")
    num_files = [
        len(
            prepare(feature_set, tmp_path, tmp_path / name, max_memory_bytes=size).example_files(
                "train"
            )
        )
        for name, size in (("large", 1 << 20), ("small", 1 << 14))
    ]
    assert num_files[0] == 1
    assert num_files[1] > 2


def test_evaluation_rows_are_in_file_order_and_training_rows_are_not(tmp_path):
    store = build(tmp_path, raw_log(200, num_users=20, seed=5))
    assert examples(store, "val")[ROW].is_sorted()
    assert not examples(store, "train")[ROW].is_sorted()


@pytest.mark.parametrize("parts", [1, 3])
def test_without_users_there_are_no_histories(tmp_path, parts):
    features = """
sources: {events: {path: events.parquet, where: "price < 3"}}
label: {name: click, expr: "click", where: "click IS NOT NULL"}
features: [{name: item, kind: categorical}]
"""
    log = raw_log(90, num_users=9, seed=1)
    store = build(tmp_path, log, features=features, parts=parts)
    assert store.histories is None
    rows = pl.concat([examples(store, split) for split in ("train", "val", "test")])
    kept = log.with_row_index(ROW).filter(pl.col("click").is_not_null() & (pl.col("price") < 3))
    assert sorted(rows[ROW]) == kept[ROW].to_list()
    [(_, first), *_] = batches(store, "train")
    assert set(first.users_B.tolist()) == {-1}
    assert first.sequences is None
    assert not {USER, POSITION} & set(rows.columns)


def test_train_lengths(tmp_path):
    features = FEATURES.replace(
        "{kind: random, fractions: [0.6, 0.2, 0.2], seed: 1}", "{kind: leave_one_out}"
    )
    log = raw_log(80, num_users=9, seed=1)
    store = build(tmp_path, log, features=features)
    users = pl.read_parquet(store.users_file)["user"]
    counts = dict(log.group_by("user").len().iter_rows())
    expected = [counts[u] - 2 if counts[u] >= 3 else counts[u] for u in users]
    assert store.histories.train_lengths.tolist() == expected
    torn = build(tmp_path / "torn", log).histories.train_lengths
    assert (torn == -1).any()
