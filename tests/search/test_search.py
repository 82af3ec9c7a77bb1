"""Tables that are trained in stages, from the first command to scores."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from bundles import write_data
from commands import experiment, recsys_command, train_command
from safetensors.torch import load_file
from tables.conftest import SPECS

from features import columns
from features.errors import RunConfigError
from features.load import load_feature_set, parse_feature_set
from features.table_spec import PlannedTable, StagedTable
from recsys.bundle import TABLES
from recsys.checkpoint import MODEL, read_manifest, read_tensors
from recsys.data.module import RecsysData
from recsys.search.stages import Stages
from recsys.trained import load_task
from recsys.training.stages import check_stages

ROOT = Path(__file__).parents[2]
STAGED = {name: spec for name, spec in SPECS.items() if isinstance(spec, StagedTable)}
FEATURES = """
sources:
  events: events.parquet
  items: {path: items.parquet, on: item_id}
entity: {user: user_id, item: item_id, time: timestamp}
label: {name: click}
split: {kind: temporal, fractions: [0.6, 0.2, 0.2]}
defaults: {dim: 8}
tables:
  shared: SPEC
features:
  - {name: user_id, kind: categorical, table: shared}
  - {name: item_id, kind: categorical, table: shared}
  - {name: tags, kind: categorical, split: "|", pooling: sum, table: shared}
  - {name: past, kind: sequence, of: item_id, max_length: 3, pooling: mean}
"""
QUICK = ("--generations", 3, "--num_mutations", 3, "--num_crossovers", 2, "--tolerance", 0.02)
MORE = ("--trainer.max_epochs", 2)


def inputs(directory, spec):
    """Data, a feature file and an experiment."""
    directory.mkdir(parents=True, exist_ok=True)
    write_data(directory / "data")
    text = FEATURES.replace("SPEC", spec.model_dump_json(exclude_none=True))
    (directory / "features.yaml").write_text(text)
    ranker = {"class_path": "DeepFM", "init_args": {"mlp": [8], "dropout": 0.5}}
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}}
    task = {"class_path": "RankingTask", "init_args": {"ranker": ranker, "optimizer": adam}}
    return experiment(directory, task, features="features.yaml", name="experiment")


@pytest.fixture(scope="module", params=STAGED)
def searched(request, tmp_path_factory):
    """The folder of a search that is done."""
    directory = tmp_path_factory.mktemp(request.param)
    file = inputs(directory, STAGED[request.param])
    out = directory / "out"
    quick = QUICK if request.param == "optembed" else ()
    assert recsys_command("search", "-c", file, "--out", out, *quick, *MORE) == 0
    return out


def test_a_search_ends_with_an_ordinary_run_of_smaller_tables(searched, tmp_path, capfd):
    assert recsys_command("search", *again(searched)) == 0  # everything is done
    shown = capfd.readouterr().out
    assert "| warm-up |" in shown
    assert "of the bytes of all tables are gone" in shown
    run = searched / "3_retrain"
    table = load_feature_set(run / "features.yaml").tables["shared"]
    assert isinstance(table, PlannedTable)
    sizes = [
        json.loads((searched / stage / "metrics.json").read_text())["table_bytes"]
        for stage in ("1_warm_up", "3_retrain")
    ]
    assert sizes[1] < sizes[0]
    bundle = tmp_path / "bundle"
    assert recsys_command("export", run, "--out", bundle) == 0
    stored = sum(t.nbytes for t in load_file(bundle / TABLES).values())
    assert stored == sizes[1]
    assert recsys_command("inspect-tables", run) == 0


def again(searched):
    quick = QUICK if "optembed" in searched.parent.name else ()
    return ("-c", searched.parent / "experiment.yaml", "--out", searched, *quick, *MORE)


def test_scores_of_a_bundle_are_those_of_the_run(searched, tmp_path):
    checkpoint = searched / "3_retrain" / "checkpoints" / "best.ckpt"
    task = load_task(checkpoint, read_manifest(checkpoint))
    data = RecsysData(
        str(searched / "3_retrain" / "features.yaml"),
        str(searched.parent / "data"),
        batch_size=64,
        store=str(searched.parent / "store"),
    )
    with torch.no_grad():
        expected = torch.cat([task(batch).sigmoid() for batch in data.val_dataloader()])
    assert recsys_command("export", searched / "3_retrain", "--out", tmp_path / "bundle") == 0
    arguments = (tmp_path / "bundle", searched.parent / "data", "--out", tmp_path / "scores")
    assert recsys_command("score", *arguments) == 0
    scores = pl.read_parquet(tmp_path / "scores" / "*.parquet")
    rows = pl.concat([pl.read_parquet(file) for file in data.store.example_files("val")])[
        columns.ROW
    ]
    found = scores[rows.to_list()].select("score_click").to_torch()
    torch.testing.assert_close(found, expected[: len(found)], atol=1e-6, rtol=0)


def test_a_run_goes_on_from_its_own_copies_of_the_plans(searched, tmp_path):
    """And the folder of another search is left alone."""
    copy = tmp_path / "copy"
    shutil.copytree(searched / "3_retrain", copy)
    manifest = read_manifest(copy / "checkpoints" / "best.ckpt")
    assert load_task(copy / "checkpoints" / "best.ckpt", manifest).embedder.num_bytes
    changed = (*again(searched), "--seed_everything", 1)
    assert recsys_command("search", *changed) == 2


# ------------------------------------------------------------------------------------ mistakes
def test_a_lone_training_of_such_tables_is_refused(tmp_path, capsys):
    for name, spec in STAGED.items():
        file = inputs(tmp_path / name, spec)
        assert train_command("fit", "-c", file) == 2
        message = capsys.readouterr().err
        assert message.startswith("tables.shared: a table of this scheme is trained in stages")
        assert "python -m recsys search" in message


def test_what_cannot_be_searched_is_refused(tmp_path, capsys):
    file = inputs(tmp_path, SPECS["full"])
    assert recsys_command("search", "-c", file, "--out", tmp_path / "out") == 2
    assert "needs tables that are trained in stages, all of one scheme, got none" in (
        capsys.readouterr().err
    )
    assert train_command("fit", "-c", file, "--run.warm_up", "true") == 2
    assert "run.warm_up: is for tables" in capsys.readouterr().err
    wrong = ("--out", tmp_path / "out", "--generation", 3, "--max_examples", 0)
    assert recsys_command("search", "-c", file, *wrong) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("--generation: is no option")
    assert second.startswith("--max_examples: is too small, got 0")


def test_two_searches_do_not_share_a_folder(tmp_path, capsys):
    file = inputs(tmp_path, SPECS["optembed"])
    with Stages(file, tmp_path / "out").alone():
        assert recsys_command("search", "-c", file, "--out", tmp_path / "out") == 2
    assert "another search, or a training of one that was ended" in capsys.readouterr().err


def test_options_of_a_search_for_widths_are_refused_where_there_is_none(tmp_path, capfd):
    file = inputs(tmp_path, SPECS["dedup"])
    more = ("--generations", 3, "--max_share", 0.1, "--max_examples", 7)
    assert recsys_command("search", "-c", file, "-c", file, "--out", tmp_path / "out", *more) == 2
    assert f"-c: is one file here, got {file}, {file}; put all into one" in capfd.readouterr().err
    assert recsys_command("search", "-c", file, "--out", tmp_path / "out", *more) == 2
    said = capfd.readouterr().err
    assert "only tables of scheme optembed are searched for widths, got --generations 3, " in said
    assert "--max_share 0.1, --max_examples 7; drop these options" in said


def test_widths_of_sequence_tasks_are_not_searched(tmp_path):
    spec = SPECS["optembed"].model_dump_json(exclude_none=True)
    feature_set = parse_feature_set(FEATURES.replace("SPEC", spec), name="f.yaml")
    check_stages(feature_set, warm_up=True, reads="ranking")
    with pytest.raises(RunConfigError, match=r"tables.shared: widths are searched by the AUC"):
        check_stages(feature_set, warm_up=True, reads="sequence")


def test_widths_of_rankers_that_read_histories_are_not_searched(tmp_path, capfd):
    file = inputs(tmp_path, SPECS["optembed"])
    features = tmp_path / "features.yaml"
    features.write_text(features.read_text().replace(", pooling: mean", ""))
    file.write_text(file.read_text().replace("DeepFM", "DARE").replace("dropout: 0.5", "top_k: 2"))
    assert recsys_command("search", "-c", file, "--out", tmp_path / "out") == 2
    said = capfd.readouterr()
    assert "tables.shared: widths are searched for rankers that read no histories, got DARE" in (
        said.err + said.out
    )


@pytest.mark.parametrize("often", [(), ("--run.checkpoint_every_steps", 1000)])
def test_a_training_that_its_patience_had_ended_takes_no_further_step(tmp_path, often):
    """As where it was killed after its last checkpoint."""
    file = inputs(tmp_path, SPECS["full"])
    more = ("--trainer.max_epochs", 30, "--run.patience", 1, "--run.test", "false", *often)
    assert train_command("fit", "-c", file, *more) == 0
    last = tmp_path / "runs" / "experiment" / "checkpoints" / "last.ckpt"
    step = read_manifest(last).step
    assert step < 30 * 5
    assert train_command("fit", "-c", file, *more, "--ckpt_path", "last") == 0
    assert read_manifest(last).step == step
    more_patient = (*more, "--run.patience", 2, "--ckpt_path", "last")
    assert train_command("fit", "-c", file, *more_patient) == 0
    assert read_manifest(last).step > step


# --------------------------------------------------------------------------------------- kills
def start(directory, file, out):
    command = [sys.executable, "-m", "recsys", "search", "-c", file, "--out", out]
    command += [*QUICK, *MORE, "--run.checkpoint_every_steps", 2]
    with (directory / "log").open("a") as log:
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def kill_when(process, is_time):
    """Kill a search with its training, without a warning; say whether it was still at work."""
    while process.poll() is None and not is_time():
        time.sleep(0.02)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


@pytest.mark.slow
def test_a_search_that_is_killed_ends_as_if_it_had_not_been(tmp_path):
    file = inputs(tmp_path, SPECS["optembed"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(tmp_path, file, whole).wait() == 0
    moments = [
        (killed / "1_warm_up" / "csv").exists,  # before the first checkpoint
        (killed / "1_warm_up" / "checkpoints" / "last.ckpt").exists,
        (killed / "2_compress" / "search.json").exists,
        (killed / "2_compress" / "shared.plan.safetensors").exists,
        (killed / "3_retrain" / "checkpoints" / "last.ckpt").exists,
    ]
    kills = [kill_when(start(tmp_path, file, killed), moment) for moment in moments]
    assert sum(kills) >= 4, (tmp_path / "log").read_text()
    assert start(tmp_path, file, killed).wait() == 0
    for stage in ("1_warm_up", "3_retrain"):
        one, other = (
            read_tensors(out / stage / "checkpoints" / "best.ckpt", MODEL)
            for out in (whole, killed)
        )
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), name
    for name in ("search.json", "shared.plan.safetensors", "features.yaml"):
        one, other = ((out / "2_compress" / name).read_bytes() for out in (whole, killed))
        assert one == other, name


@pytest.mark.slow
def test_a_search_that_is_asked_to_stop_waits_for_its_training(tmp_path):
    file, out = inputs(tmp_path, SPECS["optembed"]), tmp_path / "out"
    process = start(tmp_path, file, out)
    last = out / "1_warm_up" / "checkpoints" / "last.ckpt"
    while process.poll() is None and not last.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # to the search alone
    assert process.wait() == os.EX_TEMPFAIL
    said = (tmp_path / "log").read_text()
    assert "stopped by SIGINT at step" in said
    assert "Traceback" not in said
    assert start(tmp_path, file, out).wait() == 0
