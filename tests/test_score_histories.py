"""Bundles of rankers that search histories score as the model that was trained."""

import polars as pl
import pytest
import torch
from bundles import HISTORY_RANKERS, data_module, score, task_of, train

from features import columns

FEATURES = """
sources:
  events: events.parquet
  items: {path: items.parquet, on: item_id}
entity: {user: user_id, item: item_id, time: timestamp}
label: {name: click}
split: {kind: temporal, fractions: [0.6, 0.2, 0.2]}
defaults: {dim: 8}
tables:
  goods: {scheme: decoupled, attention: {dim: 4}, representation: {scheme: quantized}}
  kinds: {scheme: decoupled, representation: {scheme: hash, rows: 7}, separate_target: true}
features:
  - {name: item_id, kind: categorical, table: goods}
  - {name: category, kind: categorical, table: kinds}
  - {name: codes, kind: categorical}
  - {name: user_id, kind: categorical}
  - {name: price, kind: dense}
  - {name: clicked, kind: sequence, of: [item_id, category, codes], max_length: 7,
     where: "click = 1"}
  - {name: seen, kind: sequence, of: item_id, max_length: 3, pooling: mean}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run and a bundle of every ranker that reads histories."""
    return train(tmp_path_factory.mktemp("histories"), HISTORY_RANKERS, features=FEATURES)


@pytest.mark.parametrize("name", HISTORY_RANKERS)
def test_scores_are_the_probabilities_of_the_task(trained, tmp_path, name):
    scores = score(trained, name, trained / "data", tmp_path / "out", "--columns", "user_id,click")
    task, data = task_of(trained, name), data_module(trained, "ranking")
    files = data.store.example_files("test")
    rows = pl.concat([pl.read_parquet(file) for file in files])[columns.ROW]
    with torch.no_grad():
        expected = torch.cat([task(batch).sigmoid() for batch in data.test_dataloader()])
    found = scores[rows.to_list()].select("score_click").to_torch()
    assert len(found) == 100
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected[: len(found)], atol=1e-6, rtol=0)


def test_tables_of_roles(trained):
    found = {t.name: t.dim for t in task_of(trained, "DARE").embedder.replicated_tables()}
    assert found == {
        "goods@attention": 4,
        "goods@representation": 8 + 4,  # with the steps of its rows
        "kinds@attention": 8,
        "kinds@attention@target": 8,
        "kinds@representation": 8,
        "kinds@representation@target": 8,
        "codes": 8,
        "user_id": 8,
    }
