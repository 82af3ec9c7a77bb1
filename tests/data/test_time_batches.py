"""Times of events and questions in batches, by hand; `test_store` compares others to loops."""

import numpy as np
import polars as pl
import pytest

from features.load import load_feature_set
from recsys.data.module import RecsysData
from recsys.data.scoring import encode_for_scoring, event_batches, user_batches
from recsys.data.store import prepare
from recsys.nn.cutting import to_own_histories

FEATURES = """
sources: {events: events.parquet}
entity: {user: user, item: item, time: user_pos}
label: {name: liked}
split: {kind: leave_one_out}
features:
  - {name: item, kind: categorical}
  - {name: history, kind: sequence, of: item, max_length: 2, times: timestamp}
"""
FILTERED = FEATURES.replace("max_length: 2", 'max_length: 2, where: "liked = 1"')
NAMES = ["user", "item", "user_pos", "timestamp", "liked"]
# The clock runs back within a: only user_pos orders events.
EVENTS = [
    ("a", 5, 4, 200, 1), ("b", 2, 1, 20, 0), ("a", 1, 0, 100, 1), ("a", 3, 2, -7, 1),
    ("c", 2, 0, -5, 0), ("b", 4, 3, 40, 0), ("a", 2, 1, 50, 0), ("b", 1, 0, 10, 0),
    ("a", 4, 3, 300, 0), ("b", 3, 2, 30, 1),
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    def build(features=FEATURES, *, events=EVENTS, task="sequence"):
        log = pl.DataFrame(events, schema=NAMES, orient="row")
        log.write_parquet(tmp_path / "events.parquet")
        (tmp_path / "features.yaml").write_text(features)
        return RecsysData(
            str(tmp_path / "features.yaml"),
            str(tmp_path),
            batch_size=8,
            task=task,
            store=str(tmp_path / "store"),
        )

    return build


def times(batches, store):
    """Items and times of the real rows by user, in the order of the batches."""
    users = pl.read_parquet(store.users_file)["user"]
    found: dict[str, list[list[int]]] = {}
    for batch in map(to_own_histories, batches):
        items, seconds = (batch.sequences[f"history.{key}"] for key in ("item", "@time"))
        assert seconds.lengths().tolist() == (items.lengths() + 1).tolist()
        rows = zip(batch.users_B.tolist(), seconds.to_dense(), batch.weights_B, strict=True)
        for user, row, weight in rows:
            if weight > 0:
                found.setdefault(users[user], []).append(row.tolist())
    return found


LAST_TWO = {"train": {"a": [[100, 50, -7, -7]], "b": [[10, 20, 20]]},
            "val": {"a": [[50, -7, 300]], "b": [[10, 20, 30]]},
            "test": {"a": [[-7, 300, 200]], "b": [[20, 30, 40]]}}  # fmt: skip
LIKED = {"train": {"a": [[100, -7, -7]]},
         "val": {"a": [[100, -7, 300]], "b": [[30]]},
         "test": {"a": [[100, -7, 200]], "b": [[30, 40]]}}  # fmt: skip


@pytest.mark.parametrize(("features", "expected"), [(FEATURES, LAST_TWO), (FILTERED, LIKED)])
def test_sequence_tasks(data, features, expected):
    module = data(features)
    found = {s: times(getattr(module, f"{s}_dataloader")(), module.store) for s in expected}
    assert found == expected


def test_ranking_tasks(data):
    module = data(task="ranking")
    assert times(module.val_dataloader(), module.store) == LAST_TWO["val"]
    train = times(module.train_dataloader(), module.store)
    assert {user: sorted(rows) for user, rows in train.items()} == {
        "a": [[100], [100, 50], [100, 50, -7]],
        "b": [[10], [10, 20]],
        "c": [[-5]],
    }


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (FEATURES, {"a": [[300, 200, 200]], "b": [[30, 40, 40]], "c": [[-5, -5]]}),
        (FILTERED, {"a": [[-7, 200, 200]], "b": [[30, 30]], "c": [[0]]}),
    ],
)
def test_users_are_asked_at_their_last_event(data, tmp_path, features, expected):
    schema = data(features).schema
    store = encode_for_scoring(schema, tmp_path, tmp_path / "scored")
    assert times(user_batches(store, batch_size=2), store) == expected


def test_one_row(data, tmp_path):
    schema = data(events=EVENTS[:1]).schema
    store = encode_for_scoring(schema, tmp_path, tmp_path / "scored")
    assert times(user_batches(store, batch_size=4), store) == {"a": [[200, 200]]}
    assert times(event_batches(store, batch_size=4), store) == {"a": [[200]]}


def test_other_times_are_another_store(data, tmp_path):
    stores = {}
    for expression in ("timestamp", '"timestamp" + 1', None):
        new = "" if expression is None else f", times: '{expression}'"
        data(FEATURES.replace(", times: timestamp", new))
        store = prepare(load_feature_set(tmp_path / "features.yaml"), tmp_path, tmp_path / "store")
        stores[expression] = store
    assert len({store.path for store in stores.values()}) == 3
    assert len({store.manifest.schema_fingerprint for store in stores.values()}) == 3
    plain, later = (s.histories.values("history.@time") for s in list(stores.values())[:2])
    np.testing.assert_array_equal(later, plain + 1)
    without = stores[None]
    assert not list(without.path.rglob("*@time*"))
    [file] = without.example_files("val")
    assert not [name for name in pl.read_parquet(file).columns if "@" in name]
