"""A run that is stopped and resumed, on one process or two, ends as the uninterrupted one."""

import os
from functools import partial

import pytest
import torch
from gloo import run_processes
from training.runs import fit, saved_tensors, write_inputs

from recsys.checkpoint import read_manifest

LAST = 10
# The training split has about 320 rows, so 6 batches an epoch: 3 stops in the middle of the
# first epoch, 6 at its end, 8 in the middle of the second.
STOPS = (3, 6, 8)


def linear_decay(optimizer):
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=LAST)


def train(rank, world_size, directory, jobs):
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    run = partial(fit, directory, world_size=world_size, scheduler=linear_decay)
    return {name: run(kind, name, **arguments) for kind, name, arguments in jobs}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Losses by name: uninterrupted, stopped, and resumed on the same and on the other number."""
    directory = write_inputs(tmp_path_factory.mktemp("resume"))
    losses = {}
    for world_size in (1, 2):
        jobs = [(kind, f"{kind}-whole-{world_size}", {"max_steps": LAST}) for kind in KINDS]
        jobs += [("ranking", f"stopped-{stop}-{world_size}", {"max_steps": stop}) for stop in STOPS]
        losses |= run_processes(world_size, train, directory, directory, jobs)
    for world_size in (1, 2):
        jobs = [
            (
                "ranking",
                f"resumed-{stop}-{before}-{world_size}",
                {"max_steps": LAST, "resume": f"stopped-{stop}-{before}"},
            )
            for stop in STOPS
            for before in (1, 2)
        ]
        losses |= run_processes(world_size, train, directory, directory, jobs)
    return directory, losses


KINDS = ("ranking", "sequence", "cloze")


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(runs, kind):
    directory, losses = runs
    assert len(losses[f"{kind}-whole-1"]) == LAST
    assert losses[f"{kind}-whole-2"] == pytest.approx(losses[f"{kind}-whole-1"], abs=1e-5)
    assert_same(directory, f"{kind}-whole-1", f"{kind}-whole-2")


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("stop", STOPS)
def test_a_resumed_run_ends_where_the_uninterrupted_one_ends(runs, stop, before, after):
    directory, losses = runs
    resumed = losses[f"resumed-{stop}-{before}-{after}"]
    assert resumed == pytest.approx(losses["ranking-whole-1"][stop:], abs=1e-5)
    assert_same(directory, "ranking-whole-1", f"resumed-{stop}-{before}-{after}")


def test_the_manifest_says_where_the_run_stands(runs):
    directory, _ = runs
    manifest = read_manifest(directory / "checkpoints" / "stopped-8-1.ckpt")
    assert (manifest.step, manifest.epoch, manifest.batch_in_epoch) == (8, 1, 2)
    assert manifest.tables["item_id"][1] == 8


def assert_same(directory, one, other):
    expected, found = saved_tensors(directory, one), saved_tensors(directory, other)
    assert expected.keys() == found.keys()
    assert any(name.startswith("fused.") for name in expected) == ("ranking-whole" in one)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0, msg=name)
