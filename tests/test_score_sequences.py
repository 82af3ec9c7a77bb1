"""Bundles of sequence models give each user the items that the task ranks first."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from bundles import ENCODERS, data_module, score, task_of, train
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.data.scoring import encode_for_scoring, user_batches
from recsys.scoring.scorer import Scorer

SEQUENCE = """
sources: {events: events.parquet}
entity: {user: user_id, item: item_id, time: timestamp}
split: {kind: leave_one_out}
defaults: {dim: 8}
features:
  - {name: item_id, kind: categorical}
  - {name: history, kind: sequence, of: item_id, max_length: 6}
"""


WITH_SIDES = (
    SEQUENCE.replace("of: item_id", "of: [device, item_id, brand, tags], times: timestamp")
    .replace(
        "{name: item_id, kind: categorical}",
        "{name: item_id, kind: categorical}\n  - {name: device, kind: categorical, dim: 4}\n"
        "  - {name: brand, kind: categorical, dim: 4}\n"
        '  - {name: tags, kind: categorical, split: "|", dim: 4, '
        "expr: \"case when list_price < 10 then '' else tags end\"}",
    )
    .replace("events.parquet}", "events.parquet, items: {path: items.parquet, on: item_id}}")
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run and a bundle of every encoder."""
    return train(tmp_path_factory.mktemp("sequences"), ENCODERS, features=SEQUENCE)


# Of each way to read a history one; the others are cases of SequenceTransformer.
KINDS = [
    name if name in ("BERT4Rec", "HSTU", "SASRec") else pytest.param(name, marks=pytest.mark.slow)
    for name in ENCODERS
]


@pytest.fixture(scope="module", params=KINDS)
def with_all(request, tmp_path_factory):
    """An encoder of all that it may know, an output table, every table sharded; and its folder."""
    name = request.param
    return name, train(
        tmp_path_factory.mktemp("all"),
        [name],
        features=WITH_SIDES,
        encoder={"time_gaps": True},
        item_output="separate",
        shuffle_ties=True,
        loss={"class_path": "SampledSoftmax", "init_args": {"num_negatives": 8}},
        tables={"dense_max_bytes": 0},
    )


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


def test_sides_times_and_an_output_table_of_a_sharded_run(with_all, tmp_path):
    name, trained = with_all
    task, data = task_of(trained, name), data_module(trained, "sequence")
    bundle = trained / "bundles" / name
    scorer, matters = Scorer(bundle), []
    for batch in data.test_dataloader():
        with torch.no_grad():
            expected_BV = task(batch)
        torch.testing.assert_close(scorer.catalogue_scores(batch), expected_BV, atol=1e-5, rtol=0)
        assert expected_BV.std() > 1e-3
        for key in ("device", "brand", "tags", "@time"):
            with torch.no_grad():
                other_BV = task(without(batch, f"history.{key}"))
            matters.append((key, not torch.allclose(other_BV, expected_BV, atol=1e-5)))
    assert {key for key, is_so in matters if is_so} == {"device", "brand", "tags", "@time"}
    assert scorer.manifest.item_output == "separate"

    scores = score(trained, name, trained / "data", tmp_path / "out", "-k", 4)
    store = encode_for_scoring(data.schema, trained / "data", tmp_path / "encoded")
    users = pl.read_parquet(store.users_file)["user"]
    vocabulary = data.schema.vocabularies["item_id"].values.to_list()
    for batch in user_batches(store, batch_size=1):
        with torch.no_grad():
            [scores_V] = task(batch)
        torch.testing.assert_close(scorer.catalogue_scores(batch)[0], scores_V, atol=1e-5, rtol=0)
        best = best_by_hand(scores_V.tolist(), set(batch.seen_values.tolist()), 4)
        found = scores.filter(pl.col("user_id") == users[int(batch.users_B)])
        assert found["item_id"].to_list() == [vocabulary[item - 1] for item in best]
        assert found["score"].to_list() == pytest.approx(scores_V[best].tolist(), abs=1e-5)


def without(batch, key):
    """The batch with 0 for all values of one column."""
    keyed = batch.sequences
    values = {k: keyed[k].values() * (k != key) for k in keyed.keys()}  # noqa: SIM118  no dict
    return replace(
        batch,
        sequences=KeyedJaggedTensor(
            keys=[*values], values=torch.cat([*values.values()]), lengths=keyed.lengths()
        ),
    )
