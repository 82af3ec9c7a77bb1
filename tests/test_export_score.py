"""Bundles score events as the checkpoint they were made of, whatever the model and its tables."""

import json
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from bundles import RANKERS, checkpoint_of, data_module, score, task_of, train
from commands import recsys_command, train_command

from features import columns
from recsys.checkpoint import read_manifest
from recsys.report import score_metrics

FEATURES = """
sources:
  events: events.parquet
  items: {path: items.parquet, on: item_id}
entity: {user: user_id, item: item_id, time: timestamp}
label:
  - {name: click}
  - {name: cheap, expr: "price < 20"}
split: {kind: temporal, fractions: [0.6, 0.2, 0.2]}
defaults: {dim: 8}
tables:
  shared: {scheme: unified, rows: 101, dim: 4}
  hashed: {scheme: hash, rows: 50}
  halved: {scheme: hash, rows: 12}
features:
  - {name: user_id, kind: categorical, table: shared, probes: 2}
  - {name: device, kind: categorical, table: shared, probes: 2}
  - {name: item_id, kind: categorical}
  - {name: brand, kind: categorical, table: hashed, encoding: {kind: hash}}
  - {name: category, kind: categorical, table: halved}
  - {name: weekday, kind: categorical, expr: "extract(dow from timestamp)", table: halved}
  - {name: tags, kind: categorical, split: "|", pooling: sum}
  - {name: codes, kind: categorical, table: shared, probes: 2}
  - {name: hour, kind: categorical, encoding: {kind: identity, size: 24}}
  - {name: price, kind: bucketized, quantiles: 4}
  - {name: log_price, column: price, kind: dense, transform: log1p, standardize: true}
  - {name: place, kind: vector, size: 2}
  - {name: history, kind: sequence, of: [tags, item_id, codes], max_length: 5, pooling: mean}
  - {name: mobile, kind: sequence, of: [item_id, codes], max_length: 3, pooling: sum,
     where: "device = 'mobile'"}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run and a bundle of every ranker."""
    return train(tmp_path_factory.mktemp("export"), RANKERS, features=FEATURES)


@pytest.mark.parametrize("name", RANKERS)
def test_scores_are_the_probabilities_of_the_task(trained, tmp_path, name):
    scores = score(trained, name, trained / "data", tmp_path / "out", "--columns", "user_id,click")
    assert scores.columns == ["user_id", "click", "score_click", "score_cheap"]
    events = pl.read_parquet(trained / "data" / "events.parquet")
    assert scores.select("user_id", "click").equals(events.select("user_id", "click"))
    task, data = task_of(trained, name), data_module(trained, "ranking")
    for split, batches in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        files = data.store.example_files(split)
        rows = pl.concat([pl.read_parquet(file) for file in files])[columns.ROW]
        with torch.no_grad():
            expected = torch.cat([task(batch).sigmoid() for batch in batches])
        found = scores[rows.to_list()].select("score_click", "score_cheap").to_torch()
        assert len(found) == 100
        assert expected.std(dim=0).min() > 1e-3
        torch.testing.assert_close(found, expected[: len(found)], atol=1e-6, rtol=0)
        if split == "val":  # and so does the model that trained, whose tables were sharded
            auc = score_metrics(scores[rows.to_list()], label="click", score="score_click")["auc"]
            logged = read_manifest(checkpoint_of(trained, name)).metrics["val/auc/click"]
            assert auc == pytest.approx(logged, abs=1e-6)


def test_the_test_command_tests_the_model_that_was_trained(trained, tmp_path):
    assert train_command("test", "-c", trained / "DCNv2.yaml") == 0
    report = json.loads((trained / "runs" / "DCNv2" / "metrics.json").read_text())
    scores = score(trained, "DCNv2", trained / "data", tmp_path / "out", "--columns", "click")
    expected = score_metrics(scores.tail(100), label="click", score="score_click")
    for name in ("auc", "logloss", "calibration"):
        assert report["test"][f"test/{name}/click"] == pytest.approx(expected[name], abs=1e-5)


def test_tables_were_sharded_in_training_and_have_the_names_of_the_task(trained):
    task = task_of(trained, "DCNv2")
    assert not list(task.embedder.sharded_tables())
    assert {"shared", "hashed", "item_id"} <= {t.name for t in task.embedder.replicated_tables()}


@pytest.fixture
def unseen(trained, tmp_path):
    """Data of tomorrow: no labels, people and things that training never met, empty lists."""
    items = pl.read_parquet(trained / "data" / "items.parquet").head(6)
    items = items.with_columns(
        item_id=pl.Series(["i0", "i1", "new item", "newer item", "i4", "i5"]),
        tags=pl.Series(["", "tag1|new tag", "|", "tag2", None, "tag0|tag0"]),
        codes=pl.Series([[], [99, 1], [1], [], [0, 0], None], dtype=pl.List(pl.Int64)),
        brand=pl.Series(["brand0", "neue Marke", "ブランド", "", "brand1", "brand1"]),
        category=pl.lit("new category"),
    )
    events = pl.read_parquet(trained / "data" / "events.parquet").head(24).drop("click")
    events = events.with_columns(
        item_id=pl.Series(items["item_id"].to_list() * 4),
        user_id=pl.Series([f"user {row % 5}" for row in range(24)]),
    )
    (tmp_path / "data").mkdir()
    events.sample(fraction=1, shuffle=True, seed=0).write_parquet(tmp_path / "data/events.parquet")
    items.write_parquet(tmp_path / "data" / "items.parquet")
    return tmp_path / "data"


def test_unseen_data_without_labels_is_scored_in_the_order_of_its_file(trained, unseen, tmp_path):
    keys, name = ("user_id", "item_id", "timestamp", "tags"), "DCNv2"
    scores = score(trained, name, unseen, tmp_path / "a", "--columns", ", ".join(keys))
    events = pl.read_parquet(unseen / "events.parquet")
    assert scores.select(keys[:3]).equals(events.select(keys[:3]))
    probabilities = scores.select("score_click", "score_cheap").to_numpy()
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert len(np.unique(probabilities[:, 0])) > 6

    # Names that training never met are all one to the model, so others give the same scores.
    renamed = pl.col("user_id").replace({"user 1": "someone", "user 2": ""})
    events.with_columns(renamed).write_parquet(unseen / "events.parquet")
    again = score(trained, name, unseen, tmp_path / "b")
    assert np.array_equal(again.to_numpy(), probabilities)

    # What they did before counts all the same.
    one_user = pl.lit("one and only").alias("user_id")
    events.with_columns(one_user).write_parquet(unseen / "events.parquet")
    merged = score(trained, name, unseen, tmp_path / "c")
    assert not np.allclose(merged.to_numpy(), probabilities)


def test_the_first_event_scores_the_same_alone(trained, unseen, tmp_path):
    events = pl.read_parquet(unseen / "events.parquet")
    whole = score(trained, "DCNv2", unseen, tmp_path / "whole")
    first = events["timestamp"].arg_min()
    events[first].write_parquet(unseen / "events.parquet")
    alone = score(trained, "DCNv2", unseen, tmp_path / "alone")
    np.testing.assert_allclose(alone.to_numpy(), whole[first].to_numpy(), atol=1e-6)


def test_scoring_loads_no_training_code_and_a_bundle_can_move(trained, unseen, tmp_path):
    bundle = shutil.copytree(trained / "bundles" / "DCNv2", tmp_path / "elsewhere" / "bundle")
    program = (
        "import sys; from recsys.__main__ import main\n"
        f"code = main(['score', {str(bundle)!r}, {str(unseen)!r}, '--out', 'out'])\n"
        "loaded = [m for m in sys.modules if m.split('.')[0] in ('lightning', 'models')\n"
        "          or m.startswith('recsys.training')]\n"
        "sys.exit(f'{code} {loaded}' if code or loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    here = score(trained, "DCNv2", unseen, tmp_path / "here")
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").equals(here)
    assert [file.name for file in (tmp_path / "out").rglob("*.parquet")] == ["part-00000.parquet"]


def test_the_same_checkpoint_by_its_own_path(trained, unseen, tmp_path):
    checkpoint = trained / "runs" / "DeepFM" / "checkpoints" / "last.ckpt"
    assert recsys_command("export", checkpoint, "--out", tmp_path / "bundle") == 0
    card = (tmp_path / "bundle" / "card.md").read_text()
    assert "DeepFM" in card
    assert "val/auc/click" in card


def test_nothing_is_left_of_a_failed_export(trained, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no space left")

    run = trained / "runs" / "DCNv2"
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("torch.export.save", fail)
    with pytest.raises(RuntimeError):
        recsys_command("export", run, "--out", tmp_path / "bundle")
    assert sorted(tmp_path.iterdir()) == before
