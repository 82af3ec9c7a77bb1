"""Searches for masks, from the command line to scores."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from bundles import data_module
from commands import experiment, recsys_command, train_command
from training.runs import RANKING, write_inputs

from features import columns
from features.table_plan import read_plan
from recsys.checkpoint import read_manifest
from recsys.trained import load_task

# Thresholds meet both budgets after 20 steps, of 6 an epoch.
TABLES = """
tables:
  user_rows: {{{scheme}, budget: 500}}
  item_rows: {{{scheme}, budget: 300}}
features:"""
SCHEMES = {
    "pep": "scheme: pep, start: -3.4, decay: 1.0, per: table",
    "autosrh": "scheme: autosrh, num_groups: 3, lr: 0.1",
}
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}}
DCN = {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [8]}}
MODEL = {"class_path": "RankingTask", "init_args": {"ranker": DCN, "optimizer": ADAM}}


def features(scheme):
    found = RANKING.replace("\nfeatures:", TABLES.format(scheme=SCHEMES[scheme]))
    for name in ("user", "item"):
        column = f"{name}_id, kind: categorical"
        found = found.replace(column, f"{column}, table: {name}_rows")
    return found


@pytest.mark.parametrize("scheme", ["pep", pytest.param("autosrh", marks=pytest.mark.slow)])
def test_a_search_ends_in_a_run_whose_bundle_scores_as_it_does(scheme, tmp_path):
    directory = write_inputs(tmp_path)
    (directory / "ranking.yaml").write_text(features(scheme))
    file = experiment(directory, MODEL, features="ranking.yaml")
    out, bundle = tmp_path / "out", tmp_path / "bundle"
    seed = ("--seed_everything", "7", "--trainer.max_epochs", "4")
    assert recsys_command("search", "-c", file, "--out", out, *seed) == 0
    warm_up, run = (out / name for name in ("1_warm_up", "3_retrain"))
    task = load_task(
        run / "checkpoints" / "best.ckpt", read_manifest(run / "checkpoints/best.ckpt")
    )
    before = json.loads((warm_up / "config.json").read_text())
    first = first_rows(task, seed=before["seed_everything"])
    for table, budget in (("user_rows", 500), ("item_rows", 300)):
        weight = task.embedder.replicated.weights[table]
        scheme_of = task.embedder.schemes[table]
        is_kept = scheme_of.is_kept_VD
        assert 0 < scheme_of.num_bytes <= budget
        assert not weight[~is_kept].any()
        assert weight[is_kept].all()
        plan = read_plan(out / "2_compress" / f"{table}.plan.safetensors")
        np.testing.assert_array_equal(plan.first_values[table], first[table][is_kept])
    assert recsys_command("export", run, "--out", bundle) == 0
    scores = tmp_path / "scores"
    assert recsys_command("score", bundle, directory / "data", "--out", scores) == 0
    data = data_module(directory, "ranking")
    with torch.no_grad():
        expected = torch.cat([task(batch).sigmoid() for batch in data.val_dataloader()])
    rows = pl.concat([pl.read_parquet(f) for f in data.store.example_files("val")])[columns.ROW]
    found = pl.read_parquet(scores / "*.parquet")[rows.to_list()].select("score_click").to_torch()
    torch.testing.assert_close(found, expected[: len(found)], atol=1e-6, rtol=0)


def test_a_warm_up_that_is_over_takes_no_further_step(tmp_path):
    """Its last checkpoint is that of its end, however rare checkpoints are."""
    directory = write_inputs(tmp_path)
    (directory / "ranking.yaml").write_text(features("pep"))
    file = experiment(directory, MODEL, features="ranking.yaml")
    more = ("--run.warm_up", "true", "--run.checkpoint_every_steps", 500, "--run.test", "false")
    more += ("--trainer.max_epochs", 9)
    assert train_command("fit", "-c", file, *more) == 0
    last = tmp_path / "runs" / file.stem / "checkpoints" / "last.ckpt"
    step, task = read_manifest(last).step, load_task(last, read_manifest(last))
    assert step == 20
    for table in ("user_rows", "item_rows"):
        scheme, weight = task.embedder.schemes[table], task.embedder.replicated.weights[table]
        assert (weight.abs() > scheme.logits_FD.sigmoid()).sum() <= scheme.num_kept
    assert train_command("fit", "-c", file, *more, "--ckpt_path", "last") == 0
    assert read_manifest(last).step == step


def first_rows(task, *, seed):
    """What the tables of the warm-up started with."""
    from recsys.tables.initial import initial_rows
    from recsys.tables.scheme import PhysicalTable

    weights = task.embedder.replicated.weights
    return {
        name: initial_rows(PhysicalTable(name, *weights[name].shape), seed=seed)
        for name in ("user_rows", "item_rows")
    }
