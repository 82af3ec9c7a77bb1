"""Checkpoints, bundles and scores that are damaged, missing or of something else."""

import json
import re
import shutil

import polars as pl
import pytest
from commands import recsys_command, train_command
from spoiling import RANKER, edit, edit_features, export, fit


def test_a_checkpoint_of_another_schema(inputs, place, refused):
    checkpoint = inputs / "runs" / "done" / "checkpoints" / "best.ckpt"
    edit_features(place, "max_length: 5", "max_length: 6")
    says = r"best.ckpt: was trained under another feature schema, got .*; allowed .*; use the"
    refused(fit, place, "--ckpt_path", checkpoint, says=says)
    test = ("test", "-c", place / "run.yaml", "--ckpt_path", checkpoint)
    refused(train_command, *test, says=says)


def test_a_checkpoint_of_features_in_another_order(inputs, place, refused):
    checkpoint = inputs / "runs" / "done" / "checkpoints" / "best.ckpt"
    user, item = (f"  - {{name: {name}, kind: categorical}}\n" for name in ("user_id", "item_id"))
    edit_features(place, user + item, item + user)
    says = r"best.ckpt: was trained with features in another order .*, got item_id, user_id, .*; "
    refused(fit, place, "--ckpt_path", checkpoint, says=says + "allowed user_id, item_id, ")
    refused(train_command, "test", "-c", place / "run.yaml", "--ckpt_path", checkpoint, says=says)


def test_a_run_that_reads_its_own_folder(inputs, place, refused):
    shutil.copytree(inputs / "runs" / "done", place / "runs" / "run")
    own = place / "runs" / "run"
    for option, path in (
        ("run.continue_from", own),
        ("run.start_from", "best"),
        ("data.features", own / "features.yaml"),
    ):
        says = f"{option}: lies in the folder of this very run, .*; give .* --run.name run_2"
        refused(fit, place, f"--{option}", path, says=says)


def test_a_checkpoint_of_another_model(inputs, place, refused, capfd):
    checkpoint = inputs / "runs" / "done" / "checkpoints" / "best.ckpt"
    edit(place, **{f"{RANKER}.init_args.mlp": [9]})
    test = ("test", "-c", place / "run.yaml", "--ckpt_path", checkpoint)
    says = r"ranker.init_args.mlp: differs from the model of .*, got \[9\]; allowed \[8\]"
    refused(train_command, *test, says=says)
    fit_on = ("fit", "-c", place / "run.yaml", "--run.continue_from", checkpoint)
    assert train_command(*fit_on) == 2
    says = r"ranker.mlp.*another shape, got \[8, \d+\].*\[9, \d+\]"
    assert re.search(says, capfd.readouterr().err)


def test_what_is_no_run(place, refused):
    for name in ("nope", "data"):
        refused(export, place, place / name, says=f"RUN: has no checkpoint, got .*/{name}; allowed")


CHECKPOINT_DAMAGE = {
    "manifest.json": r"manifest.json: is damaged, got ",
    ".metadata": r"\.metadata: is damaged, got hash",
    "__0_0.distcp": r"__0_0.distcp: is damaged, got hash",
    "schema/schema.json": r"schema.json: no readable schema",
}


@pytest.mark.parametrize(("name", "says"), CHECKPOINT_DAMAGE.items())
def test_a_damaged_checkpoint(inputs, place, refused, name, says):
    checkpoint = place / "copy.ckpt"
    shutil.copytree(inputs / "runs" / "done" / "checkpoints" / "best.ckpt", checkpoint)
    (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:50])
    refused(export, place, checkpoint, says=says)


def test_a_checkpoint_of_a_model_that_is_gone(inputs, place, refused):
    checkpoint = place / "copy.ckpt"
    shutil.copytree(inputs / "runs" / "done" / "checkpoints" / "best.ckpt", checkpoint)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["config"]["model"]["init_args"]["ranker"]["class_path"] = "models.Gone"
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    refused(export, place, checkpoint, says=r"copy.ckpt: names no model .*'models' .* 'Gone'")


def test_a_damaged_bundle(inputs, place, refused):
    bundle = shutil.copytree(inputs / "bundle", place / "copy")
    for file in sorted(file for file in bundle.rglob("*") if file.is_file()):
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        arguments = ("score", bundle, place / "data", "--out", place / "out")
        says = f"{file.name}: is (not the file that was exported|damaged)"
        if file.name != "manifest.json":
            refused(recsys_command, *arguments, says=says)
            file.unlink()
            refused(recsys_command, *arguments, says=f"{file.name}: is not .*, got none; export")
        file.write_bytes(whole)
    (bundle / "manifest.json").write_text("{")
    refused(recsys_command, *arguments, says=r"manifest.json: is damaged, got no JSON")
    refused(recsys_command, "score", place, *arguments[2:], says=r"is no bundle, got no manifest")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--columns", "usr_id"], r"--columns: no such column in .*'usr_id'.*mean 'user_id'"),
        (["--columns", "click,click"], r"--columns: is named twice, got 'click'"),
        (["-k", "0"], r"-k: is no number of items, got 0; allowed 1 and more"),
    ],
)
def test_arguments_of_score(inputs, place, refused, arguments, says):
    paths = (inputs / "bundle", place / "data", "--out", place / "out")
    refused(recsys_command, "score", *paths, *arguments, says=says)


def test_output_that_exists_is_kept(inputs, place, refused):
    out = place / "data"
    says = r"--out: exists already, got .*data; give another name, or remove it"
    refused(recsys_command, "export", inputs / "runs" / "done", "--out", out, says=says)
    refused(recsys_command, "score", inputs / "bundle", out, "--out", out, says=says)


REPORT_MISTAKES = {
    "no column": (("clik", "p", 1.0), r"no such column, got 'clik'.*did you mean 'click'"),
    "no label": (("user", "p", 1.0), r"user: is wrong in 4 rows, first in row 0, got 'a'; .*0 and"),
    "null": (("late", "p", 1.0), r"late: is wrong in 1 rows, first in row 3, got None"),
    "no score": (("click", "price", 1.0), r"price: is wrong in 3 rows, .* got 2.5; allowed prob"),
    "NaN": (("click", "nan", 1.0), r"nan: is wrong in 1 rows, first in row 2, got nan"),
    "share": (("click", "p", 1.5), r"--last: is no share, got 1.5"),
}


@pytest.mark.parametrize(("arguments", "says"), REPORT_MISTAKES.values(), ids=REPORT_MISTAKES)
def test_report(place, refused, arguments, says):
    frame = pl.DataFrame(
        {
            "user": ["a", "b", "a", "b"],
            "click": [0, 1, 1, 0],
            "late": [0, 1, 1, None],
            "p": [0.1, 0.9, 0.8, 0.3],
            "price": [2.5, 3.0, 1.0, 7.0],
            "nan": [0.1, 0.2, float("nan"), 0.4],
        }
    )
    (place / "scores").mkdir()
    frame.write_parquet(place / "scores" / "part.parquet")
    label, score_column, last = arguments
    options = ("--label", label, "--scores", score_column, "--last", last)
    refused(recsys_command, "report", place / "scores", *options, says=says)
    refused(recsys_command, "report", place / "data2", *options, says="no share|no Parquet file")


def test_report_of_scores_that_are_not_complete(place, refused):
    (place / "scores").mkdir()
    (place / "scores" / "plan.json").touch()
    options = ("--label", "click", "--scores", "p")
    refused(recsys_command, "report", place / "scores", *options, says="is unfinished, got no")
