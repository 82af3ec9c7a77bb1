import json
import logging
from types import SimpleNamespace

import pytest
import torch
from commands import experiment, train_command
from training.runs import write_inputs

from recsys.training.callbacks import Patience
from recsys.training.results import Results


def test_a_resumed_run_goes_on_counting_seconds(tmp_path):
    results = Results(tmp_path)
    results.load_state_dict({"train_s": 100.0})
    results.on_train_start(SimpleNamespace(), SimpleNamespace())
    assert 100 <= results.state_dict()["train_s"] < 130


def test_a_result_that_is_undefined_ends_no_training_and_is_told_once(caplog):
    patience = Patience(monitor="val/auc/click", mode="max", patience=2)
    trainer = SimpleNamespace(
        callback_metrics={"val/auc/click": torch.tensor(torch.nan)},
        is_global_zero=True,
        should_stop=False,
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            patience.on_validation_end(trainer, SimpleNamespace())
    assert not trainer.should_stop
    assert patience.wait_count == 0
    assert [r.getMessage().partition(",")[0] for r in caplog.records] == [
        "val/auc/click: is undefined"
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of two seeds."""
    directory = write_inputs(tmp_path_factory.mktemp("results"))
    task = {"class_path": "RankingTask", "init_args": {"ranker": {"class_path": "FM"}}}
    for seed, name in enumerate(("first", "second")):
        file = experiment(directory, task, features="ranking.yaml", name=name)
        more = ("--trainer.max_epochs", 2, "--seed_everything", seed)
        assert train_command("fit", "-c", file, *more) == 0
    return directory


def reports(directory, name):
    folder = directory / "runs" / name
    files = (folder / "metrics.json", folder / "evaluated.json")
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def test_a_later_test_keeps_the_seed_of_the_run(runs):
    before, _ = reports(runs, "second")
    assert train_command("test", "-c", runs / "second.yaml", "--ckpt_path", "last") == 0
    report, evaluated = reports(runs, "second")
    assert (before["seed"], report["seed"]) == (1, 1)
    assert report["tested_checkpoint"] == "last.ckpt"
    assert evaluated is None


def test_what_is_found_of_other_checkpoints_is_no_result_of_the_run(runs, capfd):
    before, _ = reports(runs, "first")
    other = runs / "runs" / "second" / "checkpoints" / "best.ckpt"
    assert train_command("test", "-c", runs / "first.yaml", "--ckpt_path", other) == 0
    report, evaluated = reports(runs, "first")
    assert report == before
    assert (evaluated["seed"], evaluated["checkpoint"]) == (1, str(other))
    assert evaluated["test"]["test/auc/click"] is not None
    assert f"results: {runs}/runs/first/evaluated.json" in capfd.readouterr().out

    assert train_command("validate", "-c", runs / "first.yaml", "--ckpt_path", "last") == 0
    report, evaluated = reports(runs, "first")
    assert report == before
    assert "test" not in evaluated
    assert evaluated["checkpoint"].endswith("runs/first/checkpoints/last.ckpt")


def test_a_validation_of_the_best_checkpoint_is_that_of_the_run(runs):
    before, _ = reports(runs, "second")
    assert train_command("validate", "-c", runs / "second.yaml") == 0
    report, _ = reports(runs, "second")
    assert report["val"] == pytest.approx(before["val"], nan_ok=True)
    assert report["epoch"] == before["epoch"]


def test_a_resumed_run_compares_with_the_best_of_its_checkpoint(tmp_path):
    results = Results(tmp_path)
    results.load_state_dict({"train_s": 1.0, "best": 0.7})
    assert results.state_dict()["best"] == 0.7


def test_weights_that_begin_anew_are_named(runs, capfd):
    best = runs / "runs" / "first" / "checkpoints" / "best.ckpt"
    task = {"class_path": "RankingTask", "init_args": {"ranker": {"class_path": "DCNv2"}}}
    file = experiment(runs, task, features="ranking.yaml", name="other_layers")
    more = ("--trainer.max_steps", 1, "--run.start_from", best)
    assert train_command("fit", "-c", file, *more) == 0
    said = capfd.readouterr().out
    assert f"{best}: " in said
    assert " tensors are taken over; anew begin ranker.cross" in said
    features = runs / "wider.yaml"
    features.write_text((runs / "ranking.yaml").read_text().replace("dim: 8", "dim: 4"))
    wider = (*more, "--data.features", features, "--run.name", "wider")
    assert train_command("fit", "-c", file, *wider) == 2
    assert "run.start_from: " in capfd.readouterr().err
