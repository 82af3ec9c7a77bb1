"""Runs whose sharded rows have 16 bits: resumed, continued with other bits, exported."""

import json

import pytest
import torch
from commands import experiment, recsys_command, train_command
from gloo import run_processes
from safetensors.torch import load_file
from training.runs import (
    LAST,
    STOP,
    Losses,
    data_module,
    fit_task,
    saved_tensors,
    task,
    write_inputs,
)

from recsys.checkpoint import MODEL, read_tensors

RUNS = {
    "whole": ("fp16", LAST, None),
    "stopped": ("fp16", STOP, None),
    "resumed": ("fp16", LAST, "stopped"),
    "stopped-wide": ("fp32", STOP, None),
    "widened": ("fp32", LAST, "stopped"),
    "narrowed": ("fp16", LAST, "stopped-wide"),
}


def train(rank, world_size, directory):
    found = {}
    for name, (row_dtype, steps, resume) in RUNS.items():
        losses = Losses()
        fit_task(
            directory,
            task("ranking", row_dtype=row_dtype),
            data_module(directory, "ranking"),
            name,
            world_size=world_size,
            max_steps=steps,
            resume=resume,
            callbacks=[losses],
        )
        found[name] = losses.values
    return found


def tables(tensors):
    return {n: t for n, t in tensors.items() if n.startswith(MODEL) and "collection" in n}


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_run_ends_where_the_uninterrupted_one_ends(world_size, tmp_path):
    directory = write_inputs(tmp_path)
    losses = run_processes(world_size, train, directory, directory)
    saved = {name: saved_tensors(directory, name) for name in RUNS}
    assert losses["resumed"] == losses["whole"][STOP:]
    assert saved["resumed"].keys() == saved["whole"].keys()
    for name, tensor in saved["whole"].items():
        assert torch.equal(saved["resumed"][name], tensor), name
    for name, (row_dtype, _, _) in RUNS.items():
        bits = torch.float16 if row_dtype == "fp16" else torch.float32
        assert {t.dtype for t in tables(saved[name]).values()} == {bits}
        state = [t for n, t in saved[name].items() if n.endswith("momentum1")]
        assert state
        assert {t.dtype for t in state} == {torch.float32}
    # Wider rows begin where the narrow ones were, to the last bit, and then go their own way.
    assert losses["widened"][0] == losses["whole"][STOP]
    assert losses["widened"][1:] != losses["whole"][STOP + 1 :]
    assert losses["widened"] == pytest.approx(losses["whole"][STOP:], abs=1e-3)
    # Narrow rows begin with the wide ones rounded.
    assert losses["narrowed"] == pytest.approx(losses["whole"][STOP:], abs=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = write_inputs(tmp_path_factory.mktemp("half"))
    model = {
        "class_path": "RankingTask",
        "init_args": {
            "ranker": {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [16]}},
            "tables": {"dense_max_bytes": 0, "row_dtype": "fp16"},
        },
    }
    file = experiment(directory, model, features="ranking.yaml")
    assert train_command("fit", "-c", file) == 0
    return directory, file


def test_it_says_once_how_rows_are_rounded(trained, capsys):
    _, file = trained
    assert train_command("fit", "-c", file, "--run.name", "again", "--run.test", "false") == 0
    said = "".join(capsys.readouterr())
    assert said.count("tables.row_dtype: on a CPU fp16 rows are rounded to the nearest number") == 1
    whole = ("--model.init_args.tables.row_dtype", "fp32", "--run.name", "wide")
    assert train_command("fit", "-c", file, *whole, "--run.test", "false") == 0
    assert "row_dtype" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_bundle_has_the_rows_of_the_checkpoint(trained, tmp_path, dtype):
    directory, _ = trained
    run, bundle = directory / "runs" / "run", tmp_path / "bundle"
    assert recsys_command("export", run, "--out", bundle, "--table-dtype", dtype) == 0
    stored = load_file(bundle / "tables.safetensors")
    rows = tables(
        {MODEL + n: t for n, t in read_tensors(run / "checkpoints" / "best.ckpt", MODEL).items()}
    )
    for name, rows_VD in rows.items():
        table = name.split(".")[-2]
        assert torch.equal(stored[f"replicated.weights.{table}"].half(), rows_VD), table
    parity = json.loads((bundle / "manifest.json").read_text())["parity"]
    assert parity["before"]["auc/click"] == pytest.approx(parity["after"]["auc/click"], abs=1e-9)


@pytest.mark.parametrize(
    ("key", "row_dtype"),
    [("continue_from", "fp32"), ("continue_from", "fp16"), ("start_from", "fp32")],
)
def test_another_run_begins_with_its_rows_and_other_bits(trained, key, row_dtype):
    directory, file = trained
    source = directory / "runs" / "run" / "checkpoints" / "best.ckpt"
    name = f"{key}_{row_dtype}"
    options = ["--run.name", name, f"--run.{key}", source, "--trainer.max_steps", 1]
    dtype = ["--model.init_args.tables.row_dtype", row_dtype, "--data.batch_size", 8]
    assert train_command("fit", "-c", file, *options, *dtype) == 0
    before = read_tensors(source, MODEL)
    after = read_tensors(directory / "runs" / name / "checkpoints" / "last.ckpt", MODEL)
    table = next(n for n in before if n.endswith("user_id.weight"))
    assert before[table].dtype == torch.float16
    # A step reads some of the users; the rows of the others are those it began with.
    is_kept = (after[table].float() == before[table].float()).all(1)
    assert 0 < is_kept.sum() < len(is_kept)
