"""What `export` writes, says and refuses, and which bundles `score` reads."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from bundles import data_module, score, train
from commands import experiment, recsys_command, train_command
from modes import as_any_new_file
from safetensors import safe_open

from recsys.bundle import TABLES, read_bundle
from recsys.data.simulate import SimulatorConfig, simulate
from recsys.scoring.scorer import Scorer

FEATURES = """
sources: {events: events.parquet}
entity: {user: user_id, item: item_id, time: timestamp}
label: {name: click}
split: {kind: temporal, fractions: [0.6, 0.2, 0.2]}
defaults: {dim: 8}
tables: {people: {scheme: hash, rows: 20}}
features:
  - {name: user_id, kind: categorical, table: people}
  - {name: item_id, kind: categorical}
  - {name: seen, kind: sequence, of: item_id, max_length: 3, pooling: mean}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run and its bundle, in 32 bits."""
    return train(tmp_path_factory.mktemp("command"), ["FM"], features=FEATURES)


@pytest.fixture(scope="module")
def in_int8(trained):
    """The same in 8 bits."""
    bundle = trained / "bundles" / "int8"
    assert export(trained, bundle, "--table-dtype", "int8", "--max-drop", 0.1) == 0
    return bundle


@pytest.fixture
def refused(trained, tmp_path, capfd):
    """Checks that an export is refused in words, and leaves nothing."""

    def check(*arguments, says):
        capfd.readouterr()
        assert export(trained, tmp_path / "bundle", *arguments) == 2
        printed = capfd.readouterr()
        assert re.search(says, printed.err), printed.err
        assert "Traceback" not in printed.err
        assert not list(tmp_path.glob("bundle*"))

    return check


def export(trained, bundle, *arguments):
    return recsys_command("export", trained / "runs" / "FM", "--out", bundle, *arguments)


def test_the_manifest_says_what_the_bundle_is(trained, in_int8):
    (whole, _), (few, schema) = read_bundle(trained / "bundles" / "FM"), read_bundle(in_int8)
    assert (whole.table_dtype, few.table_dtype) == ("fp32", "int8")
    assert whole.model_fingerprint == few.model_fingerprint
    assert few.schema_fingerprint == schema.fingerprint()
    assert few.source_run == "FM"
    rows = data_module(trained, "ranking").store.manifest.rows["val"]
    for manifest in (whole, few):
        assert manifest.parity["split"] == "val"
        assert manifest.parity["num_rows"] == rows
        assert manifest.parity["before"].keys() == {"auc/click", "logloss/click"}
        histogram = manifest.score_histogram["click"]
        assert (len(histogram["edges"]), len(histogram["counts"])) == (19, 20)
        assert sum(histogram["counts"]) == rows
    assert whole.parity["before"] == whole.parity["after"]
    logged = whole.metrics["val/auc/click"]
    assert whole.parity["before"]["auc/click"] == pytest.approx(logged, abs=1e-6)
    assert few.parity["before"] != few.parity["after"]
    with safe_open(in_int8 / TABLES, framework="numpy") as tables:
        said = tables.metadata()
    assert said == {"model_fingerprint": few.model_fingerprint, "table_dtype": "int8"}


def test_another_account_may_score_with_the_bundle(trained, in_int8):
    for bundle in (in_int8, trained / "bundles" / "FM"):
        assert all(as_any_new_file(f) for f in bundle.rglob("*") if f.is_file())


@pytest.mark.parametrize("name", ["manifest.json", "tables.safetensors", "schema/schema.json"])
def test_a_bundle_that_may_not_be_read_is_said(trained, tmp_path, monkeypatch, capfd, name):
    bundle, opened = trained / "bundles" / "FM", Path.open

    def refusing(path, *arguments, **options):
        if path == bundle / name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    arguments = (bundle, trained / "data", "--out", tmp_path / "out")
    assert recsys_command("score", *arguments) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"{bundle / name}: cannot be read, got Permission denied; have its")


def test_the_card_is_for_people(in_int8):
    card = (in_int8 / "card.md").read_text()
    manifest, schema = read_bundle(in_int8)
    for expected in (
        "# FM\n\nGives the probability of click for each event.\nIt was made of step",
        "python -m recsys score BUNDLE DATA --out SCORES",
        "| user_id | categorical | user_id | vocab | ",
        f"| item_id | categorical | item_id | vocab | {schema.num_ids('item_id')} |",
        "| seen | sequence | item_id | as its features | up to 3 |",
        "Rows that are stored as they are have 8 bits, and a scale",
        f"| people | hash | {20 * (8 + 4)} |",
        f"| auc/click | {manifest.parity['before']['auc/click']:.5f} | ",
        f"| val/auc/click | {manifest.metrics['val/auc/click']:.5f} |",
        "\n## Limits\n\n- Values of user_id, item_id that training has not seen",
        "- Histories come from the data",
    ):
        assert expected in card
    assert "\n\n\n" not in card


def test_scores_in_8_bits_are_near(trained, in_int8, tmp_path):
    whole = score(trained, "FM", trained / "data", tmp_path / "whole")["score_click"]
    few = score(trained, "int8", trained / "data", tmp_path / "few")["score_click"]
    assert 0 < (whole - few).abs().max() < 0.01


def test_the_summary_of_scores_has_the_histogram_of_validation(trained, tmp_path):
    score(trained, "FM", trained / "data", tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    manifest, _ = read_bundle(trained / "bundles" / "FM")
    fine = manifest.score_histogram["click"]["counts"]
    expected = [sum(fine[:3]), *fine[3:17], sum(fine[17:])]
    assert summary["scores"]["click"]["histogram_in_training"] == expected


def test_shares_of_unseen_values_are_those_of_the_validation_rows(trained, tmp_path):
    manifest, schema = read_bundle(trained / "bundles" / "FM")
    rows = data_module(trained, "ranking").store.manifest.rows
    events = pl.read_parquet(trained / "data" / "events.parquet").sort("timestamp")
    events = events.slice(rows["train"], rows["val"])
    shares = {
        name: 1 - events[name].is_in(schema.vocabularies[name].values.implode()).mean()
        for name in ("user_id", "item_id")
    }
    assert manifest.unseen == pytest.approx(shares, abs=1e-6)
    assert manifest.unseen["item_id"] > 0
    score(trained, "FM", trained / "data", tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    said = {name: summary["features"][name]["unseen_in_training"] for name in shares}
    assert said == manifest.unseen


def test_few_bits_that_cost_too_much_are_refused(refused):
    says = r"--table-dtype int4: auc/click gets worse by too much, got 0\.\d+ before .* allowed -1"
    refused("--table-dtype", "int4", "--max-drop", -1, says=says)


def test_a_limit_that_nothing_is_held_to_is_refused(refused):
    refused("--max-drop", 0.1, says="--max-drop: is for tables in fewer bits, got 0.1 and fp32")
    unchecked = ("--table-dtype", "int8", "--unchecked", "--max-drop", 0.1)
    refused(*unchecked, says="--max-drop: limits what the comparison finds, got 0.1 and --unch")


def test_a_run_may_be_the_folder_that_one_is_in(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(trained / "runs" / "FM")
    assert recsys_command("export", ".", "--out", tmp_path / "bundle", "--unchecked") == 0
    assert read_bundle(tmp_path / "bundle")[0].source_run == "FM"
    assert "of run `FM`." in (tmp_path / "bundle" / "card.md").read_text()


def test_a_bundle_that_scores_otherwise_is_refused(refused, monkeypatch):
    right = Scorer.probabilities
    monkeypatch.setattr(Scorer, "probabilities", lambda self, batch: right(self, batch) + 1e-4)
    refused(
        says="the bundle: does not score as the model does, got a difference of .*; allowed 1e-06"
    )


def test_without_the_data_nothing_is_compared(trained, refused, tmp_path, capfd):
    moved = (trained / "data").rename(trained / "elsewhere")
    try:
        refused(says=r"(?s)data.*RUN: its data is needed to compare the bundle: .*, or add --unch")
        assert export(trained, tmp_path / "bundle", "--unchecked") == 0
    finally:
        moved.rename(trained / "data")
    assert "warning: it was not compared with the model" in capfd.readouterr().out
    manifest, _ = read_bundle(tmp_path / "bundle")
    assert (manifest.parity, manifest.score_histogram) == (None, None)
    card = (tmp_path / "bundle" / "card.md").read_text()
    assert "**The bundle was not compared with the model it was made of.**" in card


def test_what_has_to_be_installed_is_said(refused, monkeypatch):
    monkeypatch.setattr("recsys.exporting.portable.find_spec", lambda name: None)
    monkeypatch.setattr("recsys.exporting.portable._no_compiler", lambda: "nothing found")
    refused("--onnx", says="--onnx: needs onnx, .* got no onnx, .*; do `pip install onnx onnxrunt")
    refused("--aoti", says="--aoti: needs a C\\+\\+ compiler, got none .nothing found.; install")


def test_tables_of_another_bundle_are_refused(trained, in_int8, tmp_path, capfd):
    bundle = shutil.copytree(trained / "bundles" / "FM", tmp_path / "mixed")
    shutil.copy(in_int8 / TABLES, bundle / TABLES)
    arguments = ("score", bundle, trained / "data", "--out", tmp_path / "out")
    assert recsys_command(*arguments) == 2
    says = r"tables.safetensors: is not the file that was exported, got int8 tables of a bundle of"
    assert re.search(says + " model [0-9a-f]{12}; export again", capfd.readouterr().err)
    (bundle / TABLES).write_bytes(b"nothing")
    assert recsys_command(*arguments) == 2
    assert "tables.safetensors: is not the file that was exported, got other bytes" in (
        capfd.readouterr().err
    )


def test_bundles_of_the_first_format_are_read(trained, tmp_path):
    bundle = shutil.copytree(trained / "bundles" / "FM", trained / "bundles" / "old")
    content = json.loads((bundle / "manifest.json").read_text())
    later = ("model_fingerprint", "table_dtype", "source_run", "parity", "unseen")
    later += ("score_histogram",)
    old = {key: value for key, value in content.items() if key not in later} | {"format": 1}
    (bundle / "manifest.json").write_text(json.dumps(old))
    found = score(trained, "old", trained / "data", tmp_path / "old")
    assert found.equals(score(trained, "FM", trained / "data", tmp_path / "new"))


@pytest.mark.parametrize("number", [0, 3, "2", None])
def test_unknown_formats_are_refused(trained, tmp_path, capfd, number):
    bundle = shutil.copytree(trained / "bundles" / "FM", tmp_path / "odd")
    content = json.loads((bundle / "manifest.json").read_text()) | {"format": number}
    (bundle / "manifest.json").write_text(json.dumps(content))
    assert recsys_command("score", bundle, trained / "data", "--out", tmp_path / "out") == 2
    says = f"manifest.json: unknown format, got {number}; allowed 1, 2; read it with the version"
    assert says in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "aoti"])
def test_other_programs_score_the_same(trained, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    for dtype, limit in (("fp32", ()), ("int8", ("--max-drop", 1))):
        bundle = tmp_path / dtype
        assert export(trained, bundle, "--table-dtype", dtype, *limit, f"--{kind}") == 0
        name = {"onnx": "model.onnx", "aoti": "model.aoti.pt2"}[kind]
        assert name in read_bundle(bundle)[0].files


@pytest.mark.slow
def test_few_bits_cost_little_on_a_simulated_log(tmp_path):
    """By the limits that export has: 0.0005 of AUC for 8 bits, 0.002 for 4."""
    config = SimulatorConfig(num_users=2000, num_items=500, num_events=100_000, seed=0)
    simulate(config, tmp_path / "data")
    (tmp_path / "features.yaml").write_text(FEATURES.replace("dim: 8", "dim: 16"))
    model = {"class_path": "DCNv2", "init_args": {"num_cross_layers": 2, "mlp": [32]}}
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.003}}
    task = {"class_path": "RankingTask", "init_args": {"ranker": model, "optimizer": adam}}
    file = experiment(tmp_path, task, features="features.yaml", name="FM")
    assert train_command("fit", "-c", file, "--trainer.max_epochs", "2") == 0
    for dtype, allowed in (("int8", 0.0005), ("int4", 0.002)):
        assert export(tmp_path, tmp_path / dtype, "--table-dtype", dtype) == 0
        parity = read_bundle(tmp_path / dtype)[0].parity
        assert parity["before"]["auc/click"] > 0.6
        assert parity["before"]["auc/click"] - parity["after"]["auc/click"] < allowed
