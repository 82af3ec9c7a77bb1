"""`migrate` and what follows it, as a person types them."""

import json

import pytest
import torch
from commands import experiment, recsys_command, train_command
from training.runs import RANKING, write_inputs

from recsys.checkpoint import MODEL, read_manifest, read_tensors

MODEL_CONFIG = {
    "class_path": "RankingTask",
    "init_args": {
        "ranker": {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [8]}},
        "tables": {"dense_max_bytes": 800},
    },
}
EDITED = RANKING.replace(
    "  - {name: user_id, kind: categorical}\n",
    "  - {name: user, renamed_from: user_id, column: user_id, kind: categorical}\n"
    "  - {name: device, kind: categorical}\n",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained run, an edited feature file, and the run that was migrated to it."""
    directory = write_inputs(tmp_path_factory.mktemp("migrate"))
    (directory / "edited.yaml").write_text(EDITED)
    file = experiment(directory, MODEL_CONFIG, features="ranking.yaml")
    assert train_command("fit", "-c", file) == 0
    return directory


def migrate(directory, out, *more, features="edited.yaml"):
    return recsys_command(
        "migrate",
        directory / "runs" / "run",
        "--features",
        directory / features,
        "--out",
        directory / out,
        *more,
    )


def test_train_edit_migrate_continue(runs, capsys):
    assert migrate(runs, "moved", "--data", runs / "data") == 0
    printed = capsys.readouterr().out
    assert "user: was user_id" in printed
    assert (runs / "moved" / "features.yaml").read_text() == EDITED
    report = json.loads((runs / "moved" / "migration.json").read_text())
    assert report["tables"]["user"]["merged"] == 0
    assert report["renamed"] == {"user": "user_id"}
    before = read_tensors(runs / "runs" / "run" / "checkpoints" / "best.ckpt", MODEL)
    after = read_tensors(runs / "moved" / "checkpoints" / "last.ckpt", MODEL)
    [old] = [t for n, t in before.items() if "user_id" in n]
    [new] = [t for n, t in after.items() if ".user." in n]
    assert torch.equal(old, new)
    file = experiment(runs, MODEL_CONFIG, features="edited.yaml", name="further")
    moved = runs / "moved"
    assert train_command("fit", "-c", file, "--run.continue_from", moved) == 0
    manifest = read_manifest(runs / "runs" / "further" / "checkpoints" / "best.ckpt")
    assert manifest.epoch <= 1
    assert (
        manifest.schema_fingerprint
        == read_manifest(moved / "checkpoints" / "last.ckpt").schema_fingerprint
    )
    assert recsys_command("export", moved / "checkpoints" / "last.ckpt", "--out", runs / "b") == 0
    capsys.readouterr()


def test_a_run_is_continued_with_its_feature_file_alone(runs, capsys):
    file = experiment(runs, MODEL_CONFIG, features="edited.yaml", name="other")
    run = runs / "runs" / "run"
    assert train_command("fit", "-c", file, "--run.continue_from", run) == 2
    printed = capsys.readouterr().err
    assert "python -m recsys migrate" in printed
    assert "features.user_id" in printed
    assert not (runs / "runs" / "other").exists()


def test_steps_of_nothing_leave_a_continued_run_as_it_was(runs, capsys):
    """Learning rates of nearly zero: weights and state come from the run, not from the seed."""
    still = json.loads(json.dumps(MODEL_CONFIG))
    still["init_args"]["optimizer"] = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-30}}
    still["init_args"]["tables"]["optimizer"] = {"lr": 1e-30}
    # Tables change places: those that were sharded are replicated now.
    still["init_args"]["tables"]["dense_max_bytes"] = 10**6
    file = experiment(runs, still, features="ranking.yaml", name="still")
    run = runs / "runs" / "run"
    assert train_command("fit", "-c", file, "--run.continue_from", run) == 0
    before = read_tensors(run / "checkpoints" / "best.ckpt", MODEL)
    after = read_tensors(runs / "runs" / "still" / "checkpoints" / "best.ckpt", MODEL)
    shorter = {n.replace(".weight", "").rpartition(".")[2]: t for n, t in before.items()}
    for name, tensor in after.items():
        other = before.get(name, shorter.get(name.rpartition(".")[2]))
        assert torch.equal(tensor, other), name
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --data DIR"),
        (["--data", "data", "--reset", "usr"], "did you mean 'user'"),
        (["--data", "data", "--checkpoint", "last", "--out", "data"], "exists already"),
    ],
)
def test_mistakes_leave_nothing(runs, capsys, arguments, said):
    given = [runs / a if a == "data" else a for a in arguments]
    assert migrate(runs, "nothing", *given) == 2
    assert said in capsys.readouterr().err
    assert not list(runs.glob("nothing*"))


def test_what_cannot_be_kept_is_given_up_by_name(runs, capsys):
    (runs / "hashed.yaml").write_text(
        RANKING.replace(
            "{name: user_id, kind: categorical}",
            "{name: user_id, kind: categorical, encoding: {kind: hash, size: 50}}",
        )
    )
    assert migrate(runs, "hashed", features="hashed.yaml") == 2
    assert "--reset user_id" in capsys.readouterr().err
    assert not list(runs.glob("hashed*.partial"))
    assert migrate(runs, "hashed", "--reset", "user_id", features="hashed.yaml") == 0
    assert "reset: 'user_id'" in capsys.readouterr().out
