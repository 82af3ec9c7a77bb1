"""Histories as the framework builds them, against the truth that a simulated log comes with."""

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.module import RecsysData
from recsys.data.simulated_attraction import HistoriesConfig
from recsys.data.simulated_histories import simulate_histories
from recsys.metrics.mutual_information import mutual_information
from recsys.metrics.relevance import TrueRelevance
from recsys.metrics.searches import Searches, search_ndcg

FEATURES = Path(__file__).parents[1] / "configs" / "features" / "histories.yaml"
CONFIG = HistoriesConfig(
    num_users=2000,
    num_items=60,
    num_categories=24,
    history_length=30,
    impressions_per_user=50,
    half_life=10.0,
    seed=1,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("histories")
    simulate_histories(CONFIG, directory)
    return directory


@pytest.fixture(scope="module")
def data(directory):
    store = str(directory / "store")
    return RecsysData(str(FEATURES), str(directory), batch_size=4096, store=store)


@pytest.fixture(scope="module")
def truth(directory, data):
    return TrueRelevance.read(directory, schema=data.schema)


def searches_in(loader):
    return [
        Searches.of_batch(batch, target="category", clicked="clicked.category") for batch in loader
    ]


def mean_ndcg(batches, *, scores, relevance):
    """Over all searches that have one."""
    found = [
        search_ndcg(scores(batch), relevance_L=relevance(batch), lengths_B=batch.lengths_B, k=5)
        for batch in batches
    ]
    return np.nanmean(np.concatenate(found))


def test_the_histories_of_batches_explain_the_probabilities_exactly(directory, data, truth):
    """So they hold all that the truth reads, at its distance, and nothing of the future."""
    shown = (
        pl.read_parquet(directory / "events.parquet")
        .filter("shown", pl.col("timestamp") >= datetime(2024, 4, 28))
        .join(pl.read_parquet(directory / "items.parquet"), on="item_id", maintain_order="left")
    )
    pairs = pl.read_parquet(directory / "attraction.parquet")
    valence = np.zeros((24, 24))
    valence[pairs["target_category"], pairs["clicked_category"]] = pairs["valence"]
    raw = data.schema.decode("category", pl.Series(range(25))).fill_null(-1).to_numpy()
    effects, labels = [], []
    for searches in searches_in(data.test_dataloader()):
        says_L = valence[raw[searches.targets_B][searches.rows_L], raw[searches.clicked_L]]
        sums = np.bincount(
            searches.rows_L,
            weights=says_L * truth.of(searches),
            minlength=len(searches.lengths_B),
        )
        effects.append(sums)
        labels.append(searches.labels_B)
    assert np.concatenate(labels).tolist() == shown["click"].to_list()
    p = shown["true_probability"].to_numpy()
    rest = np.log(p / (1 - p)) - shown["true_quality"].to_numpy()
    effect = np.concatenate(effects)
    scale, bias = np.polyfit(effect, rest, 1)
    np.testing.assert_allclose(rest, scale * effect + bias, atol=1e-8)
    assert scale > 0


def test_mutual_information_and_truth_find_much_the_same(data, truth):
    counted = mutual_information(
        lambda: searches_in(data.train_dataloader()),
        num_categories=data.schema.num_ids("category"),
        edges=(1, 3, 6, 11, 31),
    )
    batches = searches_in(data.test_dataloader())
    rng = np.random.default_rng(0)

    def at_random(searches):
        return rng.random(len(searches.clicked_L))

    assert mean_ndcg(batches, scores=truth.of, relevance=truth.of) == pytest.approx(1)
    assert mean_ndcg(batches, scores=counted.of, relevance=truth.of) > 0.7
    assert mean_ndcg(batches, scores=truth.of, relevance=counted.of) > 0.65
    assert mean_ndcg(batches, scores=at_random, relevance=truth.of) < 0.3
    assert mean_ndcg(batches, scores=at_random, relevance=counted.of) < 0.25
