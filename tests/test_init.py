"""`python -m recsys init`, and the commands that it says to type next."""

import os
import re
import shlex
from pathlib import Path

import polars as pl
import pytest
from commands import recsys_command, train_command

from features.__main__ import main as features
from features.load import load_feature_set
from recsys.data.simulate import SimulatorConfig, simulate

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    directory = tmp_path_factory.mktemp("log")
    simulate(SimulatorConfig(num_events=3_000, num_users=60, num_items=40), directory)
    return directory


@pytest.fixture
def home(tmp_path, monkeypatch, log):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(log)
    return tmp_path


def init(*arguments):
    return recsys_command("init", *arguments)


FILES = [f"data/{name}.parquet" for name in ("events", "users", "items")]


def run_next(printed, *, smaller):
    """Types what was printed, with fewer epochs."""
    lines = printed.partition("next:\n")[2].splitlines()
    codes = {}
    for line in lines:
        match shlex.split(line):
            case ["python", "-m", "features", *rest]:
                codes["check"] = features(rest)
            case ["python", "train.py", *rest]:
                codes["fit"] = train_command(*rest, *smaller)
            case ["python", "-m", "recsys", verb, *rest]:
                codes[verb] = recsys_command(verb, *rest)
    return codes


def test_from_events_to_scores_with_what_is_printed(home, capsys):
    assert init(*FILES, "-o", "configs/features/mine.yaml") == 0
    printed = capsys.readouterr().out
    assert "configs/experiment/mine.yaml: a run of it" in printed
    feature_set = load_feature_set(home / "configs/features/mine.yaml")
    assert set(feature_set.sources) == {"events", "users", "items"}
    assert feature_set.labels == ("click",)
    text = (home / "configs/features/mine.yaml").read_text()
    assert "true_probability" in text.partition("# left out")[2]
    codes = run_next(printed, smaller=["--trainer.max_epochs", "1"])
    assert codes == {"check": 0, "fit": 0, "export": 0, "score": 0}
    scores = pl.read_parquet(home / "runs/mine/scores/*.parquet")
    assert len(scores) == 3_000
    assert scores["score_click"].is_between(0, 1).all()


def test_a_next_item_file(home, capsys):
    assert init(FILES[0], "-o", "next.yaml", "--task", "sequence") == 0
    printed = capsys.readouterr().out
    assert (home / "next_run.yaml").is_file()
    smaller = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    assert run_next(printed, smaller=smaller) == {"check": 0, "fit": 0, "export": 0, "score": 0}


def test_nothing_is_overwritten_unasked(home, capsys):
    (home / "mine.yaml").write_text("mine")
    assert init(*FILES, "-o", "mine.yaml") == 2
    assert capsys.readouterr().err == (
        "mine.yaml: exists already; choose another name, or overwrite it with --force\n"
    )
    assert not (home / "mine_run.yaml").exists()
    (home / "mine.yaml").rename("mine_run.yaml")
    assert init(*FILES, "-o", "mine.yaml") == 2
    assert (home / "mine_run.yaml").read_text() == "mine"
    assert not (home / "mine.yaml").exists()
    assert init(*FILES, "-o", "mine.yaml", "--force") == 0
    assert "class_path" in (home / "mine_run.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data/event.parquet", "-o", "f.yaml"], "data/event.parquet: no such file; "),
        (["data", "-o", "f.yaml"], "data: is a folder; name one Parquet file after the other"),
        ([FILES[0], FILES[0], "-o", "f.yaml"], "the same file is named twice"),
        ([*FILES, "-o", "f.txt"], "f.txt: must be called NAME.yaml; choose such a name"),
        ([*FILES, "-o", "f.yaml", "--experiment", "f.yaml"], "cannot be feature file and run file"),
        ([FILES[1], "-o", "f.yaml"], "users.parquet: no column looks like a label, got user_id, "),
        ([*FILES, "-o", "data/events.parquet/f.yaml"], "cannot be written"),
        ([FILES[1], "-o", "f.yaml", "--task", "sequence"], "no column looks like the item, which"),
    ],
)
def test_mistakes_are_told_and_nothing_is_left(home, capsys, arguments, message):
    assert init(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert {path.name for path in home.iterdir()} == {"data"}


def test_the_run_file_begins_with_its_command(home, capsys):
    assert init(*FILES, "-o", "a/features/my log.yaml") == 0
    run_file = home / "a/experiment/my log.yaml"
    assert "# python train.py fit -c 'a/experiment/my log.yaml'" in run_file.read_text()
    assert capsys.readouterr().out.count("'a/features/my log.yaml'") == 1


def test_an_editor_finds_the_schema(home):
    (home / "schema.json").write_text("{}")
    assert init(*FILES, "-o", "mine.yaml") == 0
    assert (home / "mine.yaml").read_text().startswith("# yaml-language-server: $schema=")


def test_init_needs_no_torch():
    import subprocess
    import sys

    code = (
        "import recsys.init, sys; "
        "assert not {'torch', 'torchrec', 'lightning'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


DATA_SETS = {
    "ml-1m": (["ratings", "users", "items"], "ranking", "liked"),
    "ml-latest-small": (["ratings", "items"], "ranking", "liked"),
    "frappe": (["train", "valid"], "ranking", "label"),
    "amazon-beauty": (["interactions"], "sequence", None),
    "diginetica": (["train_sessions"], "sequence", None),
}


@pytest.mark.data
@pytest.mark.parametrize("name", DATA_SETS)
def test_data_sets(tmp_path, name, capsys):
    files, task, label = DATA_SETS[name]
    data = Path(os.environ["RECSYS_DATA"]) / name
    paths = [data / f"{file}.parquet" for file in files]
    out = tmp_path / "f.yaml"
    assert init(*paths, "-o", out, "--task", task) == 0
    feature_set = load_feature_set(out)
    assert feature_set.labels == ((label,) if label else ())
    assert features(["check", str(out), "--data", str(data)]) == 0
    names = {feature.name for feature in feature_set.features}
    if name == "ml-1m":
        assert feature_set.feature("genres").split == "|"
        assert {"title", "timestamp_exact", "user_pos", "rating"}.isdisjoint(names)
    if name == "frappe":
        assert len(names) == 10
        assert re.search(r"kind: column, .*val: \[valid.parquet\]", out.read_text())
    if task == "sequence":
        assert names == {"item_id", "history"}
