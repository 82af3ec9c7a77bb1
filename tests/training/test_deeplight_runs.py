"""Runs of tables that are pruned: which validations count, and resuming to the last bit."""

import json

import pytest
import torch
from commands import experiment, recsys_command, train_command
from gloo import run_processes
from lightning import Callback
from training.runs import (
    RANKING,
    Losses,
    checkpoint,
    data_module,
    fit_task,
    saved_tensors,
    task,
    write_inputs,
)

from recsys.checkpoint import MODEL, read_manifest, read_tensors

TABLES = """
tables:
  own: {{scheme: deeplight, budget: 300, damping_steps: {damping}}}
features:"""


def deeplight(damping):
    tables = TABLES.format(damping=damping)
    features = RANKING.replace("\nfeatures:", tables)
    return features.replace("user_id, kind: categorical", "user_id, kind: categorical, table: own")


def rows(tensors):
    [name] = [n for n in tensors if n.removesuffix(".weight").endswith(".own")]
    return tensors[name]


# ----------------------------------------------------------------------------------------- resume
# Pruned after steps 10 and 20; STOP is between them, and LAST where R is reached.
LAST, STOP = 22, 13


class SaveAndStop(Callback):
    """A checkpoint after a step, and an end there for some."""

    def __init__(self, path, *, stops):
        self.path, self.stops = path, stops

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == STOP:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = self.stops


def train(rank, world_size, directory, sizes):
    """Losses of runs that keep tables up to some sizes replicated."""
    found = []
    for size in sizes:
        losses = {name: Losses() for name in ("whole", "stopped", "resumed")}
        for name, each in losses.items():
            path = checkpoint(directory, f"stop-{name}-{size}")
            fit_task(
                directory,
                task("ranking", dense_max_bytes=size),
                data_module(directory, "ranking"),
                f"{name}-{size}",
                world_size=world_size,
                callbacks=[each, SaveAndStop(path, stops=name == "stopped")],
                max_steps=LAST,
                resume=f"stop-stopped-{size}" if name == "resumed" else None,
            )
        found.append({name: each.values for name, each in losses.items()})
    return found


@pytest.mark.parametrize(("world_size", "sizes"), [(1, [0, 10**6]), (2, [0])])
def test_a_resumed_run_ends_where_the_uninterrupted_one_ends(world_size, sizes, tmp_path):
    directory = write_inputs(tmp_path)
    (directory / "ranking.yaml").write_text(deeplight(damping=0.03))
    of_sizes = run_processes(world_size, train, directory, directory, sizes)
    for losses, size in zip(of_sizes, sizes, strict=True):
        assert len(losses["stopped"]) == STOP
        assert losses["resumed"] == losses["whole"][STOP:]
        names = [f"{name}-{size}" for name in ("stop-stopped", "whole", "resumed")]
        stopped, whole, resumed = (saved_tensors(directory, name) for name in names)
        assert whole.keys() == resumed.keys()
        for name, tensor in whole.items():
            assert torch.equal(resumed[name], tensor), name
        # 38 counts of a byte leave 52 pairs of 5 bytes.
        assert rows(whole).numel() == 38 * 8
        assert rows(whole).count_nonzero() == 52
        assert 52 < rows(stopped).count_nonzero() < 38 * 8


# ------------------------------------------------------------------------------------ validations
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}}
FM = {"class_path": "FM", "init_args": {"first_order": False}}
MODEL_PART = {"class_path": "RankingTask", "init_args": {"ranker": FM, "optimizer": ADAM}}


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    """Of epochs of six steps; R is reached after step 13."""
    directory = write_inputs(tmp_path_factory.mktemp("deeplight"))
    features = deeplight(damping=0.0193)
    (directory / "ranking.yaml").write_text(
        features.replace("defaults: {dim: 8}", "defaults: {dim: 8}")
    )
    return experiment(directory, MODEL_PART, features="ranking.yaml")


def test_validations_count_once_the_budget_is_met(run_file, capfd):
    command = ("fit", "-c", run_file, "--trainer.max_epochs", "4", "--run.patience", "0")
    assert train_command(*command) == 0
    run = run_file.parent / "runs" / "run"
    best = run / "checkpoints" / "best.ckpt"
    assert "validations count after step 13" in capfd.readouterr().out
    assert read_manifest(best).step >= 13
    assert json.loads((run / "metrics.json").read_text())["epoch"] >= 2
    assert rows(read_tensors(best, MODEL)).count_nonzero() == 52
    assert recsys_command("export", run, "--out", run.parent / "bundle") == 0


def test_a_run_without_a_validation_that_counts_says_so(run_file, capfd):
    every = ("--trainer.check_val_every_n_epoch", "2", "--run.name", "seldom")
    assert train_command("fit", "-c", run_file, "--trainer.max_epochs", "3", *every) == 0
    assert "no validation after step 13, from which on they count, so" in capfd.readouterr().out


def test_a_run_that_would_end_before_is_refused(run_file, capfd):
    short = ("--trainer.max_epochs", "2", "--run.name", "short")
    assert train_command("fit", "-c", run_file, *short) == 2
    message = capfd.readouterr().err
    assert "training ends after 12 steps, before tables.own meets its budget, got" in message
    assert "max_epochs 2" in message
    assert "allowed 13 steps and more" in message
