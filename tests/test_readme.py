"""The commands of the README's journey run, in their order, on a smaller log."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import recsys_command, train_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
JOURNEY = README.split("## The journey")[1].split("```")[1]
EDIT = README.split("**Edit.**")[1].split("```")[1]
SMALLER = {
    "simulate": "--num-events 20000 --num-users 500 --num-items 200",
    "fit": "--trainer.max_epochs 1",
}


def commands(block):
    found = re.findall(r"^python (.*?)(?:\s+#.*)?$", block, re.MULTILINE)
    for line in found:
        extra = next((more for verb, more in SMALLER.items() if f" {verb} " in line), "")
        yield f"{line} {extra}".split()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each command printed, in a directory that has the project's files and no results."""
    home = tmp_path_factory.mktemp("newcomer")
    for name in ("train.py", "features", "recsys", "models", "configs"):
        (home / name).symlink_to(ROOT / name)
    # Tests before this one may have been ranks of something.
    of_ranks = (
        "MASTER_",
        "NODE_RANK",
        "LOCAL_",
        "WORLD_SIZE",
        "RANK",
        "GROUP_RANK",
        "TORCHELASTIC",
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(of_ranks)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(home)}
    printed = {}
    for command in commands(JOURNEY):
        run = subprocess.run(
            [sys.executable, *command],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{' '.join(command)}\n{run.stdout}\n{run.stderr}"
        printed[next(word for word in command if word in VERBS)] = run.stdout
    return home, printed


VERBS = ("doctor", "simulate", "check", "fit", "test", "export", "score", "report")


def test_every_command_runs(outputs):
    _, printed = outputs
    assert list(printed) == list(VERBS)


def test_results_are_where_the_readme_says(outputs):
    home, _ = outputs
    for name in ("metrics.json", "features.yaml", "bundle/card.md", "scores/part-00000.parquet"):
        assert (home / "runs" / "demo" / name).is_file(), name
    assert list((home / "runs" / "demo").glob("csv/*/metrics.csv"))


def test_the_scores_have_the_metrics_of_the_test(outputs):
    _, printed = outputs
    tested = float(re.search(r"test/auc/click\s+([\d.]+)", printed["fit"]).group(1))
    reported = float(re.search(r"auc\D+([\d.]+)", printed["report"]).group(1))
    assert reported == pytest.approx(tested, abs=1e-4)


def test_an_edited_file_goes_on_from_what_was_learned(outputs, monkeypatch, capsys):
    home, _ = outputs
    monkeypatch.chdir(home)
    demo = (home / "configs" / "features" / "demo.yaml").read_text()
    weekday = '  - {name: weekday, kind: categorical, expr: "extract(dow from timestamp)"}\n'
    (home / "edited.yaml").write_text(demo.rstrip("\n") + "\n" + weekday)
    smaller = SMALLER["simulate"].split()
    assert recsys_command("simulate", "--out", "new_data", "--seed", 1, *smaller) == 0
    codes = []
    for script, *words in commands(EDIT):
        if script == "train.py":
            codes.append(train_command(*words))
        else:
            assert words[0] == "recsys"
            codes.append(recsys_command(*words[1:]))
    said = capsys.readouterr()
    assert codes == [1, 0, 0, 0], said.err  # `diff`: fits after `migrate`
    assert "weekday" in said.out
    assert (home / "runs" / "today" / "checkpoints" / "last.ckpt").is_dir()
