"""Runs that went on from others: what is done with them later reads ids as the first run did."""

import json
import shutil

import polars as pl
import pytest
from commands import experiment, recsys_command, train_command
from training.runs import data_module, write_inputs

from recsys.bundle import read_bundle
from recsys.checkpoint import read_manifest

MODEL = {"class_path": "RankingTask", "init_args": {"ranker": {"class_path": "FM"}}}


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """A run, another that went on from it when the log had grown, and the file of the latter."""
    directory = write_inputs(tmp_path_factory.mktemp("continued"))
    first = experiment(directory, MODEL, features="ranking.yaml")
    assert train_command("fit", "-c", first) == 0
    log = directory / "data" / "events.parquet"
    events = pl.read_parquet(log)
    # The most frequent user of all: a vocabulary of this log begins with it.
    newcomer = events.head(120).with_columns(user_id=pl.lit("newcomer"))
    pl.concat([newcomer, events]).write_parquet(log)
    file = experiment(directory, MODEL, features="ranking.yaml", name="further")
    run = directory / "runs" / "run"
    assert train_command("fit", "-c", file, "--run.continue_from", run) == 0
    return directory, file


def checkpoint_of(directory, name):
    return directory / "runs" / name / "checkpoints" / "best.ckpt"


def test_ids_are_those_of_the_first_run(continued):
    directory, _ = continued
    first, second = (read_manifest(checkpoint_of(directory, n)) for n in ("run", "further"))
    assert second.schema_fingerprint == first.schema_fingerprint
    fitted = data_module(directory, "ranking").schema
    assert fitted.vocabularies["user_id"].values[0] == "newcomer"
    assert fitted.fingerprint() != first.schema_fingerprint


def test_a_later_test_finds_what_the_run_found(continued, capsys):
    directory, file = continued
    results = directory / "runs" / "further" / "metrics.json"
    before = json.loads(results.read_text())
    results.unlink()
    assert train_command("test", "-c", file) == 0
    capsys.readouterr()
    after = json.loads(results.read_text())
    assert before["test"]["test/num_examples/click"] > 0
    assert after["test"] == before["test"]


def test_its_bundle_is_compared_on_its_own_ids(continued, capsys):
    directory, _ = continued
    bundle = directory / "bundle"
    assert recsys_command("export", directory / "runs" / "further", "--out", bundle) == 0
    capsys.readouterr()
    manifest, schema = read_bundle(bundle)
    assert "newcomer" not in schema.vocabularies["user_id"].values.to_list()
    assert manifest.parity is not None
    logged = manifest.metrics["val/auc/click"]
    assert manifest.parity["before"]["auc/click"] == pytest.approx(logged, abs=1e-6)


def test_without_a_best_checkpoint_the_last_is_exported(continued, tmp_path, capsys):
    directory, _ = continued
    run = shutil.copytree(directory / "runs" / "further", tmp_path / "runs" / "further")
    shutil.rmtree(run / "checkpoints" / "best.ckpt")
    assert recsys_command("export", run, "--out", tmp_path / "bundle") == 0
    (run / "checkpoints" / "last.ckpt").rename(run / "checkpoints" / "other.ckpt")
    assert recsys_command("export", run, "--out", tmp_path / "none") == 2
    assert "RUN: has no checkpoint, got" in capsys.readouterr().err
