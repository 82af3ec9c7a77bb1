"""A signal ends a training with a checkpoint from which it goes on as if nothing had been."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import experiment, train_command
from training.runs import saved_tensors, write_inputs

from recsys.checkpoint import read_manifest
from recsys.training.interruption import STOPPED

ROOT = Path(__file__).parents[2]
STEPS_OF_EPOCH = 6
RANKING = {
    "class_path": "RankingTask",
    "init_args": {
        "ranker": {
            "class_path": "DCNv2",
            "init_args": {"num_cross_layers": 1, "mlp": [8], "dropout": 0.1},
        },
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
        "scheduler": {
            "class_path": "torch.optim.lr_scheduler.StepLR",
            "init_args": {"step_size": 4, "gamma": 0.5},
        },
        "tables": {"dense_max_bytes": 600},
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Inputs, and a run that nothing befell."""
    directory = write_inputs(tmp_path_factory.mktemp("interruption"))
    assert train_command("fit", "-c", run_file(directory, "whole")) == 0
    return directory


def run_file(directory, run, **signal_at):
    file = experiment(directory, RANKING, features="ranking.yaml", name=run)
    content = yaml.safe_load(file.read_text())
    content["trainer"] |= {"max_epochs": 3, "log_every_n_steps": 1, "val_check_interval": 3}
    content["run"] |= {"patience": 5}
    if signal_at:
        content["trainer"]["callbacks"] = [
            {"class_path": "training.faults.Signal", "init_args": signal_at}
        ]
    file.write_text(yaml.safe_dump(content))
    return file


def assert_same_end(directory, name):
    reports = [
        json.loads((directory / f"runs/{run}/metrics.json").read_text()) for run in ("whole", name)
    ]
    for part in ("val", "test"):
        expected, found = (report.pop(part) for report in reports)
        assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
    for report in reports:
        report.pop("train_s")
    assert reports[1] == reports[0]
    for which in ("best", "last"):
        expected, found = (
            saved_tensors(directory / "runs" / run, which) for run in ("whole", name)
        )
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=0, msg=key)


@pytest.mark.parametrize(
    ("step", "signal_at"),
    [
        (3, {"name": "SIGTERM", "validating": True}),  # within an epoch
        (5, {"name": "SIGINT"}),  # before the validation that ends an epoch
        (12, {"name": "SIGUSR1", "validating": True}),  # between two epochs
        (17, {"name": "SIGTERM"}),  # in the last step
    ],
)
def test_a_signalled_run_goes_on_to_the_end_of_the_uninterrupted_one(
    whole, step, signal_at, capsys
):
    run = f"signalled-{step}"
    assert train_command("fit", "-c", run_file(whole, run, step=step, **signal_at)) == STOPPED
    last = whole / f"runs/{run}/checkpoints/last.ckpt"
    stopped = step if signal_at.get("validating") else step + 1
    assert read_manifest(last).step == stopped
    said = f"stopped by {signal_at['name']} at step {stopped}; {last} goes on from there"
    assert said in capsys.readouterr().out
    report = whole / f"runs/{run}/metrics.json"
    assert not report.exists() or "trained" not in json.loads(report.read_text())
    assert train_command("fit", "-c", run_file(whole, run), "--ckpt_path", "last") == 0
    assert json.loads(report.read_text())["trained"]
    assert_same_end(whole, run)


def test_a_run_that_is_trained_further_is_not_trained_to_the_end(whole):
    report = whole / "runs/longer/metrics.json"
    assert train_command("fit", "-c", run_file(whole, "longer")) == 0
    assert json.loads(report.read_text())["trained"]
    file = run_file(whole, "longer", name="SIGTERM", step=19)
    more = ("--ckpt_path", "last", "--trainer.max_epochs", 4)
    assert train_command("fit", "-c", file, *more) == STOPPED
    assert not json.loads(report.read_text())["trained"]


def test_a_refused_resumption_leaves_what_the_run_was_made_of(whole):
    run = whole / "runs" / "refused"
    file = run_file(whole, "refused")
    assert train_command("fit", "-c", file, "--trainer.max_epochs", 1) == 0

    def inputs():
        return [(run / name).read_text() for name in ("config.json", "features.yaml")]

    before = inputs()
    features = whole / "other.yaml"
    features.write_text((whole / "ranking.yaml").read_text().replace("max_length: 5", "dim: 8"))
    other_layers = ("--model.init_args.ranker.init_args.mlp", "[9]")
    for changed in (other_layers, ("--data.features", features)):
        assert train_command("fit", "-c", file, "--run.resume", "auto", *changed) == 2
        assert inputs() == before
    more = ("--trainer.max_epochs", 2)
    assert train_command("fit", "-c", file, "--run.resume", "auto", *more) == 0
    config, same = inputs()
    assert json.loads(config)["trainer"]["max_epochs"] == 2
    assert same == before[1]


def test_before_the_first_step_there_is_nothing_to_save(whole, monkeypatch):
    def asked(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr("recsys.data.module.prepare", asked)
    assert train_command("fit", "-c", run_file(whole, "early")) == STOPPED
    # They are given back.
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert not (whole / "runs/early").exists()


def outcome(*command, **options):
    """Exit code and output of a command in processes of its own."""
    # Trainings in this process have left their places in the environment.
    of_launchers = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {k: v for k, v in os.environ.items() if k not in of_launchers}
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True,
        text=True, check=False, **options,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_two_processes_stop_together(whole):
    file = run_file(whole, "two", step=4, name="SIGTERM", rank=1)
    code, said = outcome("train.py", "fit", "-c", file, "--trainer.devices", 2)
    assert code == STOPPED, said
    assert "stopped by another process at step 5" in said
    assert read_manifest(whole / "runs/two/checkpoints/last.ckpt").step == 5


@pytest.mark.slow
def test_torchrun_stops_all_its_processes(whole):
    file = run_file(whole, "torchrun", step=4, name="SIGUSR1", rank=1)
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", 29631)
    code, said = outcome(*torchrun, "train.py", "fit", "-c", file, "--trainer.devices", 2)
    assert code == 1, said  # torchrun's own, whatever its processes end with
    assert re.search(rf"exitcode *: {STOPPED}", said)
    assert read_manifest(whole / "runs/torchrun/checkpoints/last.ckpt").step == 5


@pytest.mark.slow
def test_a_second_signal_kills(whole):
    code, said = outcome("train.py", "fit", "-c", run_file(whole, "killed", step=2, twice=True))
    assert code == -signal.SIGTERM, said
    assert not (whole / "runs/killed/checkpoints").exists()
