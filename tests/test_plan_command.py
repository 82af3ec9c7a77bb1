"""`python -m recsys plan`: what it prints is what training does."""

import json
import os
import warnings
from functools import partial

import pytest
import torch
from commands import experiment, recsys_command
from gloo import run_processes
from lightning import Callback
from torch.distributed._shard.sharded_tensor import ShardedTensor
from training.runs import data_module, fit_task, write_inputs

from models import DCNv2
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.training.ranking import RankingTask

HINTS = {"user_id": "column_wise", "tags": "table_wise"}
MODEL = {
    "class_path": "RankingTask",
    "init_args": {
        "ranker": {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [16]}},
        "tables": {"dense_max_bytes": 0, "sharding": HINTS},
    },
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    found = write_inputs(tmp_path_factory.mktemp("plan"))
    experiment(found, MODEL, features="ranking.yaml")
    return found


def run_plan(file, *options):
    """Exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a process of its own would print them
        return recsys_command("plan", "-c", file, *options)


def plan(directory, *options, capsys):
    """Exit code, and what the command says."""
    code = run_plan(directory / "run.yaml", "--json", *options)
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if code < 2 else captured.err


class Parts(Callback):
    """Keeps the place of every part of every table."""

    def on_train_end(self, trainer, pl_module):
        weights = trainer.strategy.sharded.state_dict()
        self.parts = {
            name.split(".")[-2]: [
                (_rank(part), *part.shard_offsets, *part.shard_sizes)
                for part in weight.metadata().shards_metadata
            ]
            for name, weight in weights.items()
            if isinstance(weight, ShardedTensor)
        }


def _rank(part):
    return part.placement.rank()


def train(rank, world_size, directory):
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    task = RankingTask(
        ranker=partial(DCNv2, num_cross_layers=1, mlp=(16,)),
        optimizer=partial(torch.optim.Adam, lr=0.01),
        tables=TablesConfig(dense_max_bytes=0, sharding=HINTS, optimizer=FusedOptimizer()),
    )
    parts, data = Parts(), data_module(directory, "ranking")
    options = {"world_size": world_size, "max_steps": 1, "callbacks": [parts]}
    fit_task(directory, task, data, "planned", **options)
    return parts.parts


def test_what_is_printed_is_what_two_processes_train(directory, capsys):
    code, said = plan(
        directory, "--trainer.devices", 2, "--trainer.accelerator", "cpu", capsys=capsys
    )
    assert code == 0
    trained = run_processes(2, train, directory, directory)
    assert {table["name"] for table in said["tables"]} == trained.keys()
    for table in said["tables"]:
        pieces = [(p["rank"], p["rows"], p["width"]) for p in table["pieces"]]
        assert pieces == [(rank, *size) for rank, _, _, *size in trained[table["name"]]]
    cut = {table["name"]: table["sharding"] for table in said["tables"]}
    assert HINTS.items() <= cut.items()
    assert len({piece[0] for piece in trained["user_id"]}) == 2


def test_hardware_that_is_not_here(directory, capsys):
    options = ("--nodes", 2, "--gpus-per-node", 4, "--gpu-memory", "80GiB", "--cpu-memory", "1TiB")
    code, said = plan(directory, *options, capsys=capsys)
    assert code == 0
    assert said["fits"]
    assert said["problems"] == said["advice"] == []
    assert said["hardware"] == {
        "device": "cuda",
        "nodes": 2,
        "ranks_per_node": 4,
        "rank_bytes": 80 << 30,
        "usable_bytes": int(0.85 * (80 << 30)),
    }
    assert len(said["bytes_of_ranks"]) == 8
    # Adam exists on GPUs, and keeps two numbers for each.
    code, adam = plan(
        directory, *options, "--model.init_args.tables.optimizer.name", "adam", capsys=capsys
    )
    assert code == 0
    for table in adam["tables"]:
        for piece in table["pieces"]:
            assert piece["optimizer_bytes"] == 2 * piece["weight_bytes"]


def test_what_does_not_fit_and_what_would(directory, capsys):
    # A table of 100,000 rows whatever the data: 3.2 MB, and as much again for Adagrad.
    text = (directory / "ranking.yaml").read_text()
    for name in ("user_id", "item_id"):
        line = f"name: {name}, kind: categorical"
        text = text.replace(line, f"{line}, table: shared")
    text += "tables: {shared: {scheme: unified, rows: 100_000, dim: 8}}\n"
    (directory / "large.yaml").write_text(text)
    model = {**MODEL, "init_args": {**MODEL["init_args"], "tables": {"dense_max_bytes": 0}}}
    file = experiment(directory, model, features="large.yaml", name="too_large")

    def ask(*options):
        code = run_plan(file, "--gpus-per-node", 1, *options)
        return code, capsys.readouterr()

    code, said = ask("--gpu-memory", "6MiB", "--json")
    assert code == 1
    found = json.loads(said.out)
    [problem] = found["problems"]
    assert problem.startswith("tables.shared: does not fit, got ")
    assert "allowed 5.1 MiB of 6 MiB" in problem
    words = "\n".join(found["advice"])
    assert "optimizer.name to rowwise_adagrad" in words
    assert "--nodes 2" in words
    assert "store `shared` in less, by a scheme with a budget of about" in words
    assert "tables.host_memory to [shared]" in words
    # Each piece of advice is true.
    host = "--model.init_args.tables.host_memory"
    assert ask("--gpu-memory", "6MiB", host, "[shared]")[0] == 0
    code, said = ask("--gpu-memory", "6MiB", host, "[shared]", "--cpu-memory", "2MiB")
    assert code == 1
    assert "tables.host_memory: shared do not fit the memory of a machine" in said.out
    assert ask("--gpu-memory", "6MiB", "--nodes", 2)[0] == 0
    name = "--model.init_args.tables.optimizer.name"
    assert ask("--gpu-memory", "6MiB", name, "rowwise_adagrad")[0] == 0
    assert ask("--gpu-memory", "8MiB")[0] == 0
    # 3.2 MB in 32 bits become 1.6 in 16; Adagrad's numbers stay.
    assert "set model.init_args.tables.row_dtype to fp16: rows of half the bytes" in words
    half = ("--model.init_args.tables.row_dtype", "fp16")
    code, said = ask("--gpu-memory", "6MiB", "--json", *half)
    assert code == 0
    [table] = [t for t in json.loads(said.out)["tables"] if t["name"] == "shared"]
    assert table["row_dtype"] == "fp16"
    [piece] = table["pieces"]
    assert (piece["weight_bytes"], piece["optimizer_bytes"]) == (1_600_000, 3_200_000)
    code, said = ask("--gpu-memory", "4MiB", "--json", *half)
    assert code == 1
    assert not [words for words in json.loads(said.out)["advice"] if "row_dtype" in words]
    code, said = ask("--gpu-memory", "6MiB")
    assert code == 1
    for text in ("1 x 1 GPUs of 6 MiB: 1 process", "shared", "100,000", "unified", problem):
        assert text in said.out
    assert "each of these makes it fit:\n- set model.init_args.tables.optimizer.name" in said.out


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--gpus-per-node", 2], ["--gpu-memory: must be given where there is no GPU to ask"]),
        (
            ["--gpus-per-node", 0, "--nodes", 0, "--gpu-memory", "80 elephants"],
            [
                "--nodes: is too small, got 0",
                "--gpus-per-node: is too small, got 0",
                "--gpu-memory: no size in bytes, got '80 elephants'",
            ],
        ),
        (["--gpu-memory", "1GiB", "--gpus-per-node", 3], ["data.num_lanes: must be a multiple"]),
        (["--what"], ["--what: is no option"]),
        (["--trainer.devices", "two"], ["trainer.devices: is no number of processes, got 'two'"]),
        (
            ["--model.init_args.tables.sharding", '{"users": "row_wise"}'],
            ["tables.sharding.users: no sharded table of this name"],
        ),
        (
            ["--model.init_args.tables.optimizer.name", "adam"],
            ["tables.optimizer.name: fbgemm has no Adam on a CPU"],
        ),
        (
            ["--model.init_args.tables.host_memory", "[item_id]"],
            ["tables.host_memory: moves rows from a GPU to the memory of its machine"],
        ),
        (["--data.data_dir", "nowhere", "--data.store", "no_store"], ["nor is it encoded already"]),
    ],
)
def test_mistakes(directory, options, messages, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = plan(directory, *options, capsys=capsys)
    assert code == 2
    for message in messages:
        assert message in said


def test_the_schema_is_that_of_the_encoded_data(directory, capsys):
    code, fitted = plan(directory, capsys=capsys)
    assert code == 0
    data = data_module(directory, "ranking")
    stored = data.store.path
    assert plan(directory, capsys=capsys)[1] == {**fitted, "schema": f"of {stored}"}
    code, elsewhere = plan(directory, "--data.data_dir", directory / "moved", capsys=capsys)
    assert code == 0
    assert elsewhere == {**fitted, "schema": f"of {stored}, since the data is not here"}
