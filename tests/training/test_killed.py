"""A training that is killed, and begun again by the same command, ends as if it were not."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import experiment, train_command
from training.runs import saved_tensors, write_inputs

ROOT = Path(__file__).parents[2]
NUM_STEPS = 18
RANKING = {
    "class_path": "RankingTask",
    "init_args": {
        "ranker": {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [8]}},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
        "scheduler": {
            "class_path": "torch.optim.lr_scheduler.StepLR",
            "init_args": {"step_size": 4, "gamma": 0.5},
        },
        "tables": {"dense_max_bytes": 600},
    },
}


def run_file(directory, name):
    """Validations after steps 3 and 6 of each epoch, checkpoints after every second step."""
    file = experiment(directory, RANKING, features="ranking.yaml", name=name)
    content = yaml.safe_load(file.read_text())
    content["trainer"] |= {"max_epochs": 3, "log_every_n_steps": 1, "val_check_interval": 3}
    content["trainer"]["callbacks"] = [
        {
            "class_path": "training.faults.Killed",
            "init_args": {"losses": str(directory / f"{name}.losses")},
        }
    ]
    content["run"] |= {"patience": 5, "checkpoint_every_steps": 2, "resume": "auto"}
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Inputs, and a run that nothing befell."""
    directory = write_inputs(tmp_path_factory.mktemp("killed"))
    assert train_command("fit", "-c", run_file(directory, "whole")) == 0
    assert len(losses(directory, "whole")) == NUM_STEPS
    return directory


def losses(directory, name):
    """By step; of a step that was taken more than once, each time the same."""
    found = {}
    for line in (directory / f"{name}.losses").read_text().splitlines():
        step, loss = line.split()
        assert float(loss) == pytest.approx(found.setdefault(int(step), float(loss)), abs=1e-5)
    return found


def assert_same_end(directory, name):
    assert losses(directory, name) == pytest.approx(losses(directory, "whole"), abs=1e-5)
    reports = [
        json.loads((directory / f"runs/{run}/metrics.json").read_text()) for run in ("whole", name)
    ]
    for part in ("val", "test"):
        expected, found = (report[part] for report in reports)
        assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
    assert reports[1]["epoch"] == reports[0]["epoch"]
    for which in ("best", "last"):
        expected = saved_tensors(directory / "runs/whole", which)
        found = saved_tensors(directory / "runs" / name, which)
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=0, msg=key)


# A training in this process has left its place in the environment.
OF_LAUNCHERS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def train_here(file, killed_at):
    for name in OF_LAUNCHERS:
        os.environ.pop(name, None)
    os.environ["KILLED_AT"] = str(killed_at)
    sys.exit(train_command("fit", "-c", file))


def test_two_kills(whole):
    """At 6, just before the validation that ends an epoch is written down, and at 13."""
    file = run_file(whole, "twice")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train"])  # so that libraries are imported once
    codes = []
    for killed_at in (6, 13, -1):
        process = context.Process(target=train_here, args=(file, killed_at))
        process.start()
        process.join()
        codes.append(process.exitcode)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert_same_end(whole, "twice")


@pytest.mark.slow
def test_ten_kills_on_one_process_and_two_in_turn(whole):
    file = run_file(whole, "often")
    steps = [*sorted(random.Random(0).sample(range(1, NUM_STEPS), 10)), -1]
    environment = {k: v for k, v in os.environ.items() if k not in OF_LAUNCHERS}
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    for number, step in enumerate(steps):
        command = [sys.executable, "train.py", "fit", "-c", file]
        done = subprocess.run(
            [*command, "--trainer.devices", str(1 + number % 2)],
            cwd=ROOT, env=environment | {"KILLED_AT": str(step)}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == (0 if step < 0 else -signal.SIGKILL), done.stdout + done.stderr
    assert_same_end(whole, "often")
