"""Bundles of sequence models give each user the items that the task ranks first."""

import polars as pl
import pytest
import torch
from bundles import ENCODERS, data_module, score, task_of, train

SEQUENCE = """
sources: {events: events.parquet}
entity: {user: user_id, item: item_id, time: timestamp}
split: {kind: leave_one_out}
defaults: {dim: 8}
features:
  - {name: item_id, kind: categorical}
  - {name: history, kind: sequence, of: item_id, max_length: 6}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run and a bundle of every encoder."""
    return train(tmp_path_factory.mktemp("sequences"), ENCODERS, features=SEQUENCE)


def best_by_hand(scores_V, seen, k):
    """Ids of the best unseen items."""
    candidates = [item for item in range(1, len(scores_V)) if item not in seen]
    return sorted(candidates, key=lambda item: -scores_V[item])[:k]


@pytest.mark.parametrize("name", ENCODERS)
def test_top_items_are_those_of_the_task(trained, tmp_path, name):
    """Without each user's last event, scoring asks what testing asked."""
    (tmp_path / "data").mkdir()
    events = pl.read_parquet(trained / "data" / "events.parquet")
    is_last = pl.int_range(pl.len()).over("user_id") == pl.len().over("user_id") - 1
    earlier = events.filter(~is_last)
    earlier.write_parquet(tmp_path / "data" / "events.parquet")
    scores = score(trained, name, tmp_path / "data", tmp_path / "out", "-k", 7)
    assert scores.columns == ["user_id", "item_id", "score", "rank"]

    task, data = task_of(trained, name), data_module(trained, "sequence")
    users = pl.read_parquet(data.store.users_file)["user"]
    vocabulary = data.schema.vocabularies["item_id"].values.to_list()
    asked, full_lists = set(), 0
    for batch in data.test_dataloader():
        with torch.no_grad():
            scores_BV = task(batch)
        rows = zip(scores_BV, batch.users_B.tolist(), batch.weights_B.tolist(), strict=True)
        for scores_V, user_row, weight in rows:
            user = users[user_row]
            if not weight or user in asked:
                continue
            asked.add(user)
            seen_names = set(earlier.filter(pl.col("user_id") == user)["item_id"])
            seen = {id for id, item in enumerate(vocabulary, start=1) if item in seen_names}
            best = best_by_hand(scores_V.tolist(), seen, 7)
            found = scores.filter(pl.col("user_id") == user)
            assert found["rank"].to_list() == list(range(1, len(best) + 1))
            full_lists += len(best) == 7
            assert not set(found["item_id"]) & seen_names
            assert found["item_id"].to_list() == [vocabulary[item - 1] for item in best]
            assert found["score"].to_list() == pytest.approx(scores_V[best].tolist(), abs=1e-6)
    assert len(asked) > 25
    assert full_lists > 20


@pytest.mark.parametrize("name", ENCODERS)
def test_a_list_ends_where_the_unseen_items_end(trained, tmp_path, name):
    scores = score(trained, name, trained / "data", tmp_path / "out", "-k", 1000)
    events = pl.read_parquet(trained / "data" / "events.parquet")
    catalogue = set(data_module(trained, "sequence").schema.vocabularies["item_id"].values)
    for (user,), part in scores.group_by("user_id"):
        seen = set(events.filter(pl.col("user_id") == user)["item_id"])
        assert set(part["item_id"]) == catalogue - seen
        assert part["rank"].to_list() == list(range(1, len(part) + 1))
        assert part["score"].is_sorted(descending=True)
    assert set(scores["user_id"]) == set(events["user_id"])


@pytest.mark.parametrize("name", ENCODERS)
def test_users_and_items_that_training_never_met(trained, tmp_path, name):
    (tmp_path / "data").mkdir()
    first = pl.read_parquet(trained / "data" / "events.parquet").head(1)
    rows = [("newcomer", "i1"), ("newcomer", "new item"), ("stranger", "new item")]
    events = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    events = events.with_columns(timestamp=first["timestamp"].new_from_index(0, 3))
    events.write_parquet(tmp_path / "data" / "events.parquet")
    scores = score(trained, name, tmp_path / "data", tmp_path / "out", "-k", 3)
    assert scores["user_id"].to_list() == ["newcomer"] * 3 + ["stranger"] * 3
    assert scores["rank"].to_list() == [1, 2, 3] * 2
    assert "i1" not in scores.filter(pl.col("user_id") == "newcomer")["item_id"]
    assert "new item" not in scores["item_id"]
