"""A loss that is no number ends the training with its rows and the last good checkpoint."""

import re
from math import nan

import polars as pl
import pytest
import yaml
from commands import experiment, train_command
from gloo import run_processes
from lightning import Callback
from training.runs import data_module, events, fit_task, task, write_inputs

from features.errors import LossError
from recsys.checkpoint import read_manifest
from recsys.training.loss_guard import LossGuard

ROW = 37
RANKING = {
    "class_path": "RankingTask",
    "init_args": {
        "ranker": {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [8]}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-6}},
    },
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Events in two files, and a training row in the second of them with a huge number."""
    directory = write_inputs(tmp_path_factory.mktemp("guard"))
    log = events(directory).with_columns(size=pl.int_range(pl.len()).cast(pl.Float64) / 1000)
    in_row = pl.int_range(pl.len()) == 200 + ROW
    log = log.with_columns(size=pl.when(in_row).then(1e38).otherwise("size"))
    log[:200].write_parquet(directory / "data" / "events-1.parquet")
    log[200:].write_parquet(directory / "data" / "events-2.parquet")
    text = (directory / "ranking.yaml").read_text()
    text = text.replace("events: events.parquet", 'events: "events-*.parquet"')
    text = text.replace("  - {name: hour", "  - {name: size, kind: dense}\n  - {name: hour")
    (directory / "ranking.yaml").write_text(text)
    return directory


def test_rows_and_checkpoint_are_named(inputs, capsys):
    file = experiment(inputs, RANKING, features="ranking.yaml")
    content = yaml.safe_load(file.read_text())
    content["run"] |= {"checkpoint_every_steps": 1}
    content["data"]["batch_size"] = 16
    file.write_text(yaml.safe_dump(content))
    assert train_command("fit", "-c", file) == 2
    said = capsys.readouterr().err
    found = re.search(r"got (?:nan|inf|\d\S+e\+\d+) in step (\d+), batch (\d+) of epoch 0;", said)
    step = int(found[1])
    assert int(found[2]) == step - 1
    assert f"feature 'size', row {ROW} of events-2.parquet" in said
    assert re.search(r"it was of rows [\d, ]+( and \d+ more)? of \S+/events-1.parquet; rows ", said)
    # That of the step before has never been seen to give a loss; the one before it has.
    assert read_manifest(inputs / "runs/run/checkpoints/last.ckpt").step == step - 1
    assert "there is no earlier checkpoint; mend the data or lower the learning rate" in said


class Poisoned(Callback):
    """Makes a weight NaN, on one rank, before a step."""

    def __init__(self, step, rank):
        self._step, self._rank = step, rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self._step - 1 and trainer.global_rank == self._rank:
            next(p for n, p in pl_module.named_parameters() if "embedder" not in n).data.fill_(nan)


def poison(rank, world_size, directory):
    """What the first rank says of both tasks, where it happens on the last one in step 3."""
    size = {"world_size": world_size}
    fit_task(
        directory, task("sequence"), data_module(directory, "sequence"), "good", max_steps=1, **size
    )
    said = {}
    for kind in ("ranking", "sequence"):
        callbacks = [Poisoned(3, world_size - 1), LossGuard(directory)]
        data = data_module(directory, kind)
        with pytest.raises(LossError) as raised:
            fit_task(directory, task(kind), data, "lost", callbacks=callbacks, max_steps=4, **size)
        said[kind] = str(raised.value)
    return said


def test_all_ranks_hear_of_it_before_a_checkpoint_is_written(inputs):
    said = run_processes(2, poison, inputs, inputs)
    assert "got nan in step 3, batch 2 of epoch 0; allowed" in said["ranking"]
    assert re.search(r"got nan in step 3, batch \d+ of epoch \d+; allowed", said["sequence"])
    users = re.search(r"it was of users (.+?)(?: and \d+ more)?; ", said["sequence"])[1]
    known = {repr(str(user)) for user in events(inputs)["user_id"]}
    assert {repr(user.strip("'")) for user in users.split(", ")} <= known
    good = inputs / "checkpoints/good.ckpt"
    assert f"mend the data, and go on with --ckpt_path {good}, or lower" in said["sequence"]
    assert not (inputs / "checkpoints/lost.ckpt").exists()
