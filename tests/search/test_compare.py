import itertools
import json
from types import SimpleNamespace

import polars as pl
import pytest
from commands import experiment, recsys_command

from recsys.data.simulate import SimulatorConfig, simulate
from recsys.search import grid as grid_module
from recsys.search.compare import Cell, _trainings, cells
from recsys.search.grid import Grid, Training
from recsys.search.out_folder import alone_in
from recsys.search.variants import Variant

FEATURES = """
sources: {events: events.parquet}
label: {name: click}
split: {kind: random, fractions: [0.6, 0.2, 0.2], seed: 1}
tables: {shared: {scheme: unified, rows: 40, dim: 4}}
features:
  - {name: user_id, kind: categorical, table: shared}
  - {name: item_id, kind: categorical, table: shared}
"""


@pytest.fixture
def ranking(tmp_path):
    simulate(SimulatorConfig(num_users=30, num_items=20, num_events=300, seed=0), tmp_path / "data")
    (tmp_path / "features.yaml").write_text(FEATURES)
    model = {"class_path": "RankingTask", "init_args": {"ranker": {"class_path": "FM"}}}
    return experiment(tmp_path, model, features="features.yaml")


@pytest.fixture
def told(monkeypatch):
    """Runs are not trained but told what they reached; those whose name has `hash` fail."""
    calls = []

    def train(self, training, *, num_threads, lock):
        calls.append((training.name, training.seed, num_threads))
        self.log_file(training.name).write_text("")
        if "hash" in training.name:
            return 3
        folder = self.directory / "runs" / training.name
        folder.mkdir(parents=True)
        size = 600 if "full" in training.name else len(training.features.read_text())
        report = {"monitor": "auc/click", "table_bytes": size, "epoch": 2, "train_s": 1.5}
        report["test"] = {
            "test/auc/click": 0.5 + 0.1 * training.seed,
            "test/logloss/click": None,
            "test/num_examples": 9.0,
        }
        (folder / "metrics.json").write_text(json.dumps(report))
        return 0

    monkeypatch.setattr(Grid, "_train", train)
    monkeypatch.setattr(grid_module.os, "sched_getaffinity", lambda process: set(range(8)))
    return calls


@pytest.fixture
def validated(monkeypatch):
    """Runs without test rows; those whose name has `hash` are cut off in the midst."""

    def train(self, training, *, num_threads, lock):
        folder = self.directory / "runs" / training.name
        folder.mkdir(parents=True)
        report = {"monitor": "auc/click", "table_bytes": 600, "epoch": 2, "train_s": 1.5}
        report |= {"rows": {"train": 9, "val": 3}, "val": {"val/auc/click": 0.75}}
        if "hash" not in training.name:
            report["trained"] = True
        (folder / "metrics.json").write_text(json.dumps(report))
        return 0

    monkeypatch.setattr(Grid, "_train", train)


def compare(file, out, *arguments):
    return recsys_command("compare-tables", "-c", file, "--out", out, *arguments)


def test_schemes_without_a_size_come_once_and_first():
    found = cells(["pq", "full", "qr:seed=1"], ["1kB", "2 kB"])
    assert [cell.name for cell in found] == [
        "full",
        "pq_1kB",
        "qr-seed-1_1kB",
        "pq_2kB",
        "qr-seed-1_2kB",
    ]
    assert found[0] == Cell(Variant("full", "full", {}), None)


def test_what_fails_is_named_and_the_rest_is_reported(ranking, told, tmp_path, capsys):
    wanted = ("--schemes", "full", "hash", "pq", "--budgets", "1kB", "--seeds", 0, 1)
    out = tmp_path / "out"
    assert compare(ranking, out, *wanted, "--workers", 3) == 1
    names = ["full_s0", "hash_1kB_s0", "pq_1kB_s0", "full_s1", "hash_1kB_s1", "pq_1kB_s1"]
    assert sorted(told) == sorted((name, int(name[-1]), 2) for name in names)
    printed = capsys.readouterr().out
    assert "6 runs, 0 of them done" in printed
    assert "train.py ended with code 3; see" in printed
    assert "| full | - | 600 | 2 | 0.5500 ± 0.0707 |" in printed
    runs = pl.read_csv(out / "results.csv")
    assert sorted(runs["scheme"]) == ["full", "full", "pq", "pq"]
    assert runs.columns[-1] == "auc/click"
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")

    told.clear()  # a second call does what is missing alone
    assert compare(ranking, out, *wanted) == 1
    assert [(name, threads) for name, _, threads in told] == [
        ("hash_1kB_s0", 8),
        ("hash_1kB_s1", 8),
    ]


def test_runs_on_other_data_are_not_compared(ranking, told, tmp_path, capsys):
    wanted = ("--schemes", "full", "pq", "--budgets", "1kB")
    out = tmp_path / "out"
    assert compare(ranking, out, *wanted) == 0
    for name, data in (("full_s0", "a"), ("pq_1kB_s0", "b")):
        file = out / "runs" / name / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"data_fingerprint": data}))
    capsys.readouterr()
    assert compare(ranking, out, *wanted) == 2
    said = capsys.readouterr().err
    assert "runs of different data cannot be compared, got full_s0, pq_1kB_s0 on a log" in said


def test_the_seed_is_that_of_the_experiment_where_none_is_asked_for(ranking, told, tmp_path):
    ranking.write_text(f"seed_everything: 7\n{ranking.read_text()}")
    assert compare(ranking, tmp_path / "out", "--schemes", "full") == 0
    assert [(name, seed) for name, seed, _ in told] == [("full_s7", 7)]


def test_a_second_experiment_file_is_refused(ranking, told, tmp_path, capsys):
    assert compare(ranking, tmp_path / "out", "-c", ranking, "--schemes", "full") == 2
    assert "-c: is one file here" in capsys.readouterr().err
    assert not told


def test_without_test_rows_the_validation_counts(ranking, validated, tmp_path, capsys):
    wanted = ("--schemes", "full", "hash", "--budgets", "1kB")
    assert compare(ranking, tmp_path / "out", *wanted) == 1
    printed = capsys.readouterr().out
    assert "full_s0  auc/click 0.7500" in printed
    assert "hash_1kB_s0: train.py ended with code 0" in printed
    assert "| scheme | budget | bytes | seeds | val auc/click |" in printed
    assert "| full | - | 600 | 1 | 0.7500 |" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--schemes", "pq"), "--budgets: is missing"),
        (("--schemes", "pq", "--budgets", "much"), "--budgets: no size in bytes, got 'much'"),
        (("--schemes", "pq", "--budgets", "1kB", "--workers", 0), "--workers: is too small, got 0"),
        (("--schemes", "ph", "--budgets", "1kB", "2kB"), "ph: "),
        (("--schemes", "full", "--tables", "user"), "--tables: is no table of"),
        (("--schemes", "full", "--worker", "--trainer.max_epochs", 2), "--worker: is no option"),
        (("--schemes", "full", "--data.features", "x.yaml"), "--data.features: is what compare-t"),
        (("--schemes", "full", "--run.test=false"), "--run.test: is what compare-tables decides"),
        (("--schemes", "optembed"), "--schemes: is trained in several stages, got optembed; "),
        (("--schemes", "full", "--metric", "auc"), "--metric: is no metric of the runs, got 'auc'"),
    ],
)
def test_mistakes_end_with_code_2_before_anything_is_trained(
    ranking, told, tmp_path, capsys, arguments, message
):
    assert compare(ranking, tmp_path / "out", *arguments) == 2
    assert capsys.readouterr().err.startswith(message)
    assert "--metric" in arguments or not told


def test_runs_of_other_inputs_are_not_mixed(ranking, told, tmp_path, capsys):
    out = tmp_path / "out"
    first = ("--schemes", "full", "--seeds", 0)
    assert compare(ranking, out, *first) == 0
    assert compare(ranking, out, *first, 1) == 0  # more seeds are no other comparison
    assert [name for name, *_ in told] == ["full_s0", "full_s1"]
    says = f"--out: holds another comparison, got other %s than before in {out}; give another"
    assert compare(ranking, out, *first, "--trainer.max_epochs", 2) == 2
    assert says % "arguments" in capsys.readouterr().err
    assert compare(ranking, out, *first, "--tables", "shared") == 2
    assert says % "tables" in capsys.readouterr().err
    for file, what in ((ranking, "experiment"), (tmp_path / "features.yaml", "features")):
        text = file.read_text()
        file.write_text(f"{text}\n# changed\n")
        assert compare(ranking, out, *first) == 2
        assert says % what in capsys.readouterr().err
        file.write_text(text)
    assert compare(ranking, out, *first) == 0
    assert len(told) == 2


def test_two_comparisons_do_not_share_a_folder(ranking, told, tmp_path, capsys):
    with alone_in(tmp_path / "out", work="comparison"):
        assert compare(ranking, tmp_path / "out", "--schemes", "full") == 2
    assert "--out: another comparison, or a training of one that was ended, is at work" in (
        capsys.readouterr().err
    )
    assert not told


def test_what_is_asked_for_twice_is_trained_once(ranking, told, tmp_path):
    wanted = ("--schemes", "full", "pq", "pq", "--budgets", "1kB", "1 kB", "--seeds", 3, 3)
    assert compare(ranking, tmp_path / "out", *wanted) == 0
    assert [name for name, *_ in told] == ["full_s3", "pq_1kB_s3"]


def test_plans_of_other_tables_come_along(tmp_path):
    (tmp_path / "small.plan").write_bytes(b"plan")
    text = FEATURES.replace("tables: {", "tables: {small: {scheme: pruned, plan: small.plan}, ")
    text += "  - {name: device, kind: categorical, table: small}\n"
    [cell] = cells(["full"], [])
    folder = tmp_path / "features"
    [(_, training)] = _trainings({cell: text}, source=tmp_path / "f.yaml", seeds=[0], folder=folder)
    assert training.features.read_text() == text
    assert (folder / "small.plan").read_bytes() == b"plan"


def test_a_training_keeps_the_folder_of_a_killed_comparison_locked(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        grid_module.subprocess,
        "run",
        lambda *_, pass_fds, **__: started.append(pass_fds) or SimpleNamespace(returncode=0),
    )
    with alone_in(tmp_path, work="comparison") as lock:
        training = Training("full_s0", tmp_path / "f.yaml", 0)
        Grid(tmp_path / "e.yaml", tmp_path).train([training], num_workers=1, lock=lock)
    assert started == [(lock,)]


def test_an_experiment_that_is_not_there_or_names_no_feature_file(tmp_path, capsys):
    wanted = ("--schemes", "full")
    assert compare(tmp_path / "none.yaml", tmp_path / "out", *wanted) == 2
    (tmp_path / "empty.yaml").write_text("data: {features: gone.yaml}\n")
    assert compare(tmp_path / "empty.yaml", tmp_path / "out", *wanted) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("-c: is no file, got ")
    assert "data.features is no feature file, got 'gone.yaml'" in second


def test_runs_are_trained_and_tested_with_their_tables(ranking, tmp_path):
    out = tmp_path / "out"
    more = ("--trainer.max_epochs", 2)
    assert compare(ranking, out, "--schemes", "robe", "--budgets", "400", *more) == 0
    [run] = pl.read_csv(out / "results.csv").to_dicts()
    assert (run["scheme"], run["budget"], run["table_bytes"]) == ("robe", 400, 400)
    assert 0 < run["auc/click"] < 1
    assert "scheme: robe" in (out / "runs" / "robe_400_s0" / "features.yaml").read_text()
    log = (out / "logs" / "robe_400_s0.log").read_text()
    report = json.loads((out / "runs" / "robe_400_s0" / "metrics.json").read_text())
    assert report["trained"]
    assert "epoch 1" in log
    assert "epoch 2" not in log


def test_a_training_goes_on_where_it_was_and_ends_with_the_test(ranking, tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append([str(part) for part in command])
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(grid_module.subprocess, "run", run)
    wanted = ("--schemes", "full", "--seeds", 5, "--trainer.max_epochs", 2)
    assert compare(ranking, tmp_path / "out", *wanted) == 1
    [command] = commands
    given = dict(itertools.pairwise(command))
    assert given["--run.test"] == "true"
    assert given["--run.resume"] == "auto"
    assert given["--seed_everything"] == "5"
    assert given["--trainer.max_epochs"] == "2"
