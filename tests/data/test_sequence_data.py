"""Sequence tasks and the data module against plain loops over the raw log."""

import os
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import columns
from features.errors import DataError, FeatureConfigError, RunConfigError
from features.spec import Sequence
from recsys.data.item_sequence import ItemSequence
from recsys.data.layout import position_column
from recsys.data.module import RecsysData, expand_path
from recsys.data.sequences import training_source

FEATURES = """
sources: {events: events.parquet}
entity: {user: user, item: item, time: time}
split: {kind: leave_one_out}
features:
  - {name: item, kind: categorical}
  - {name: kind, kind: categorical}
  - {name: tags, kind: categorical}
  - {name: history, kind: sequence, of: [item, tags, kind], max_length: 4}
"""
COUNTS = "tags.@count"
RANKING = """
sources: {events: events.parquet}
entity: {user: user, item: item, time: time}
label: {name: liked, expr: "kind > 0"}
features:
  - {name: item, kind: categorical}
  - {name: history, kind: sequence, of: item, max_length: 4}
"""


def data_module(folder, *, features=FEATURES, task="sequence", batch_size=8, **options):
    rng = np.random.default_rng(2)
    columns = {"user": (0, 25), "item": (0, 20), "time": (0, 9), "kind": (0, 3)}
    log = pl.DataFrame({name: rng.integers(*bounds, 200) for name, bounds in columns.items()})
    log = pl.concat([log, pl.DataFrame({"user": 99, "item": 1, "time": 0, "kind": 0})])
    tags = [None if row % 7 == 0 else ["é", "日本", "x"][: row % 4] for row in range(len(log))]
    log = log.with_columns(tags=pl.Series(tags, dtype=pl.List(pl.String)))
    log.write_parquet(folder / "events.parquet")
    (folder / "features.yaml").write_text(features)
    data = RecsysData(
        str(folder / "features.yaml"),
        str(folder),
        batch_size=batch_size,
        task=task,
        store=str(folder / "store"),
        **options,
    )
    return data, log


def histories(log):
    """Raw items of each user, ties in the order of the file."""
    ordered = log.with_row_index().sort("time", "index")
    return {
        user: frame.rows(named=True)
        for (user,), frame in ordered.group_by("user", maintain_order=True)
    }


def encoder(data, name):
    values = data.schema.vocabularies[name].values.to_list()
    return {value: position + 1 for position, value in enumerate(values)}


def encoded(data, events):
    """All columns of some raw events."""
    ids = {name: encoder(data, name) for name in ("item", "kind", "tags")}
    lists = [event["tags"] or [] for event in events]
    return {
        **{name: [ids[name].get(event[name], 0) for event in events] for name in ("item", "kind")},
        "tags": [ids["tags"].get(tag, 0) for tags in lists for tag in tags],
        COUNTS: [len(tags) for tags in lists],
    }


def read(batch, row):
    """The same of a row of a batch."""
    keyed = batch.sequences
    return {
        n: keyed[f"history.{n}"].to_dense()[row].tolist() for n in ("item", "kind", "tags", COUNTS)
    }


def raw_users(data):
    return pl.read_parquet(data.store.users_file)["user"].to_list()


def test_training_rows_are_users(tmp_path):
    data, log = data_module(tmp_path)
    raw = raw_users(data)
    expected = {
        user: events[: -2 if len(events) >= 3 else None][-5:]
        for user, events in histories(log).items()
        if len(events[: -2 if len(events) >= 3 else None]) >= 2
    }
    found = {}
    for batch in data.train_dataloader():
        assert batch.labels_BT.shape == (len(batch), 0)
        assert batch.ids is None
        for i in np.flatnonzero(batch.weights_B > 0).tolist():
            user = raw[int(batch.users_B[i])]
            assert user not in found
            found[user] = read(batch, i)
    assert found == {user: encoded(data, events) for user, events in expected.items()}
    assert 99 not in found


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_rows_are_examples(tmp_path, split):
    data, log = data_module(tmp_path)
    item, raw = encoder(data, "item"), raw_users(data)
    by_user = {u: events for u, events in histories(log).items() if len(events) >= 3}
    found = set()
    for batch in getattr(data, f"{split}_dataloader")():
        seen = np.split(batch.seen_values.numpy(), np.cumsum(batch.seen_lengths_B.numpy())[:-1])
        for i in range(len(batch)):
            user = raw[int(batch.users_B[i])]
            found.add(user)
            place = len(by_user[user]) - (2 if split == "val" else 1)
            before = [item.get(e["item"], 0) for e in by_user[user][:place]]
            assert read(batch, i) == encoded(data, by_user[user][:place][-4:])
            assert int(batch.targets_B[i]) == item.get(by_user[user][place]["item"], 0)
            assert seen[i].tolist() == before
    assert found == set(by_user)


# ----------------------------------------------------------------------------------- windows
def window_rows(lengths, *, max_length, step):
    """(user, end) of every row, of a store that knows nothing but its training lengths."""
    histories = SimpleNamespace(train_lengths=np.array(lengths, np.int64))
    store = SimpleNamespace(histories_of=lambda _: histories)
    sequence = Sequence(name="history", kind="sequence", of="item", max_length=max_length)
    rows = training_source(store, ItemSequence("item", sequence), window_step=step).rows
    ends = rows[position_column(sequence)].tolist()
    assert rows[columns.WEIGHT].tolist() == [1.0] * len(ends)
    return list(zip(rows[columns.USER].tolist(), ends, strict=True))


def windows_by_hand(lengths, *, max_length, step):
    rows = []
    for user, end in enumerate(lengths):
        if end < 2:
            continue
        rows.append((user, end))
        while step is not None and end > max_length + 1:  # an event is left before the window
            end -= step
            rows.append((user, end))
    return rows


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
)
def test_windows(lengths, sizes):
    max_length, step = sizes
    found = window_rows(lengths, max_length=max_length, step=step)
    assert found == windows_by_hand(lengths, max_length=max_length, step=step)
    latest = window_rows(lengths, max_length=max_length, step=None)
    assert latest == [(user, end) for user, end in enumerate(lengths) if end >= 2]
    targets = Counter()  # all events of a window but the first are predicted
    for user, end in found:
        assert end >= 2
        targets.update((user, event) for event in range(max(end - max_length, 1), end))
    events = {(user, event) for user, length in enumerate(lengths) for event in range(1, length)}
    assert targets.keys() == events
    if step == max_length:
        assert set(targets.values()) <= {1}


def test_windows_in_batches(tmp_path):
    data, log = data_module(tmp_path, window_step=4)
    item, raw = encoder(data, "item"), raw_users(data)
    targets, windows = Counter(), defaultdict(list)
    for batch in data.train_dataloader():
        histories_B = batch.sequences["history.item"].to_dense()
        rows = zip(batch.users_B.tolist(), histories_B, batch.weights_B, strict=True)
        for row, (user, ids, weight) in enumerate(rows):
            assert 2 <= len(ids) <= 5
            windows[raw[user]].append(read(batch, row))
            targets.update((raw[user], id) for id in ids[1:].tolist() * int(weight))
    expected = Counter()
    for user, events in histories(log).items():
        trained = events[: -2 if len(events) >= 3 else None]
        expected.update((user, item[event["item"]]) for event in trained[1:])
        for window in windows[user]:
            assert window in [
                encoded(data, trained[max(end - 5, 0) : end]) for end in range(len(trained) + 1)
            ]
    assert targets == expected
    assert len(data_module(tmp_path)[0].train_dataloader()) <= len(data.train_dataloader())


@pytest.mark.parametrize(
    ("step", "task", "message"),
    [
        (5, "sequence", "data.window_step: leaves events out .* got 5; allowed 1 to 4, the max"),
        (0, "sequence", "data.window_step: is too small, got 0; allowed 1 and more"),
        (2, "ranking", "data.window_step: is for sequence tasks, got 2; leave it out"),
    ],
)
def test_windows_that_would_be_no_use(tmp_path, step, task, message):
    features = FEATURES if task == "sequence" else RANKING
    with pytest.raises(RunConfigError, match=message):
        data_module(tmp_path, features=features, task=task, window_step=step)[0].prepare_data()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("where", ["", ', where: "kind > 0"'])
def test_item_counts(tmp_path, where):
    data, log = data_module(
        tmp_path, features=FEATURES.replace("max_length: 4", "max_length: 4" + where)
    )
    item = encoder(data, "item")
    counts = [0] * (len(item) + 1)
    for events in histories(log).values():
        for event in events[: -2 if len(events) >= 3 else None]:
            counts[item[event["item"]]] += event["kind"] > 0 or not where
    assert data.item_counts().tolist() == counts
    assert sum(counts) > 50


def test_random_splits_are_refused_for_sequences(tmp_path):
    data, _ = data_module(tmp_path, features=FEATURES.replace("leave_one_out", "random"))
    with pytest.raises(DataError, match=r"split: the training events .* leave_one_out, temporal;"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("item: item, ", "", "entity.item: a sequence task needs .* got None"),
        (
            "name: item, kind: categorical",
            "name: item, encoding: {kind: identity, size: 99}, kind: categorical",
            "features.item.encoding: .* 0 is none of them, got identity; allowed vocab",
        ),
        ("of: [item, tags, kind]", "of: kind", "needs one sequence of 'item', got none"),
        (
            "max_length: 4}",
            "max_length: 4}\n  - {name: twin, kind: sequence, of: item, max_length: 2}",
            "got history, twin",
        ),
        (
            "max_length: 4",
            "max_length: 4, pooling: mean",
            "history.pooling: .* got mean; allowed none",
        ),
    ],
)
def test_feature_sets_without_a_sequence_task(tmp_path, old, new, message):
    data, _ = data_module(tmp_path, features=FEATURES.replace(old, new))
    with pytest.raises(FeatureConfigError, match=message):
        data.val_dataloader()


def test_ranking_module_follows_the_trainer(tmp_path):
    data, _ = data_module(tmp_path, features=RANKING, task="ranking", num_lanes=4)
    data.prepare_data()
    whole = [sorted(b.users_B[b.weights_B > 0].tolist()) for b in data.train_dataloader()]
    ranks = []
    for rank in (0, 1):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, current_epoch=0)
        ranks.append([b.users_B[b.weights_B > 0].tolist() for b in data.train_dataloader()])
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == whole
    assert sum(map(len, whole)) == data.store.manifest.rows["train"]


def test_no_training_rows(tmp_path):
    features = RANKING.replace('"kind > 0"', '"kind > 0", where: "kind < 0"')
    data, _ = data_module(tmp_path, features=features, task="ranking")
    with pytest.raises(DataError, match="no training rows, got 0"):
        data.train_dataloader()


def test_paths_with_variables(monkeypatch):
    monkeypatch.setenv("HERE", "/somewhere")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert expand_path("${HERE}/a", key="data_dir") == Path("/somewhere/a")
    assert expand_path("~/a", key="data_dir") == Path.home() / "a"
    with pytest.raises(RunConfigError) as error:
        expand_path("${NOWHERE}/a", key="data_dir")
    assert str(error.value) == (
        "data.data_dir: the variable NOWHERE is not set, got '${NOWHERE}/a'; "
        "allowed a path; do `export NOWHERE=DIRECTORY`"
    )


@pytest.mark.data
def test_movielens_sequences(tmp_path):
    root = Path(os.environ["RECSYS_DATA"]) / "ml-1m"
    features = Path(__file__).parents[2] / "configs/features/ml1m_sequence.yaml"
    data = RecsysData(
        str(features), str(root), batch_size=128, task="sequence", store=str(tmp_path / "store")
    )
    assert data.store.manifest.rows == {"train": 988_129, "val": 6040, "test": 6040}
    ratings = pl.read_parquet(root / "ratings.parquet").sort("user_id", "user_pos")
    raw, item = raw_users(data), encoder(data, "item_id")
    last = dict(
        ratings.group_by("user_id", maintain_order=True)
        .last()
        .select("user_id", "item_id")
        .iter_rows()
    )
    for batch in data.test_dataloader():
        expected = [item.get(last[raw[u]], 0) for u in batch.users_B.tolist()]
        assert batch.targets_B.tolist() == expected
    assert sum(len(b) for b in data.train_dataloader()) >= 6040
