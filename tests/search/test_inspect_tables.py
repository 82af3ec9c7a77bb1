"""Both verbs that look at a trained run, on runs of the simulator."""

import json
import shutil

import numpy as np
import pytest
import torch
from commands import experiment, recsys_command, train_command

from recsys.checkpoint import find_checkpoint, read_manifest
from recsys.data.simulate import SimulatorConfig, simulate
from recsys.search.propose_probes import propose_probes
from recsys.search.sample import validation_sample
from recsys.trained import load_task

# The device decides the label; items are drawn without regard to it.
RANKING = """
sources: {events: events.parquet}
entity: {user: user_id, item: item_id, time: timestamp}
label: {name: mobile, expr: "device = 'mobile'"}
split: {kind: random, fractions: [0.6, 0.2, 0.2], seed: 1}
defaults: {dim: 4}
tables:
  shared: {scheme: unified, rows: 60, dim: 4}
  array: {scheme: robe, rows: 20}
features:
  - {name: item_id, kind: categorical, table: shared, probes: 2}
  - {name: device, kind: categorical, table: shared}
  - {name: price, kind: bucketized, quantiles: 4, table: shared}
  - {name: hour, kind: categorical}
  - {name: kind_of_item, column: item_id, kind: categorical, table: array}
  - {name: past, kind: sequence, of: item_id, max_length: 3, pooling: mean}
"""
LIKE = "  - {name: same_item, column: item_id, kind: categorical, like: item_id}\n"
SEQUENCE = """
sources: {events: events.parquet}
entity: {user: user_id, item: item_id, time: timestamp}
split: {kind: leave_one_out}
tables: {shared: {scheme: unified, rows: 20, dim: 8}}
features:
  - {name: item_id, kind: categorical, table: shared}
  - {name: history, kind: sequence, of: item_id, max_length: 5}
"""
NUM_ROWS = 606  # of validation; batches have 64


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inspected")
    size = SimulatorConfig(num_users=60, num_items=50, num_events=3000, seed=0)
    simulate(size, directory / "data")
    (directory / "ranking.yaml").write_text(RANKING)
    (directory / "alike.yaml").write_text(RANKING.replace(", probes: 2", "") + LIKE)
    (directory / "sequence.yaml").write_text(SEQUENCE)
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}}
    dcn = {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [8]}}
    sizes = {"num_blocks": 1}
    for name, features, task in [
        ("DCNv2", "ranking", {"ranker": dcn, "tables": {"dense_max_bytes": 0}}),
        ("FM", "alike", {"ranker": {"class_path": "FM"}}),
        ("SASRec", "sequence", {"encoder": {"class_path": "SASRec", "init_args": sizes}}),
    ]:
        kind = "SequenceTask" if name == "SASRec" else "RankingTask"
        model = {"class_path": kind, "init_args": {**task, "optimizer": adam}}
        file = experiment(directory, model, features=f"{features}.yaml", name=name)
        assert train_command("fit", "-c", file, "--run.test", "false") == 0
    return directory


def run_of(trained, name):
    return trained / "runs" / name


def inspected(capsys, run):
    assert recsys_command("inspect-tables", run, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    return content, {table["name"]: table for table in content["tables"]}


def test_the_tables_of_a_ranker(trained, capsys):
    content, tables = inspected(capsys, run_of(trained, "DCNv2"))
    assert list(tables) == ["shared", "hour", "array"]
    assert (content["num_examples"], content["no_angles"]) == (NUM_ROWS, None)
    shared = tables["shared"]
    assert (shared["scheme"], shared["bytes"]) == ("unified", 60 * 4 * 4)
    assert shared["readers"] == ["item_id", "device", "price", "past.item_id"]
    [rows] = shared["physical"]
    # 50 items, 3 devices, both with an id for what is unknown, and 4 prices
    assert (rows["rows"], rows["dim"], rows["load_factor"]) == (60, 4, (51 + 4 + 4) / 60)
    task = load_task(find_checkpoint(run_of(trained, "DCNv2")), read_manifest_of(trained))
    norms = task.embedder.replicated.weights["shared"].detach().norm(dim=1)
    assert rows["norms"][0] == pytest.approx(norms.min().item())
    assert rows["norms"][5] == pytest.approx(norms.max().item())
    assert shared["collisions"]["uncounted"] == ["price"]
    assert shared["collisions"]["all_features"]["ids"] == 1  # of 53
    pairs = {frozenset((a["one"], a["other"])) for a in shared["angles"]}
    same_rows = {frozenset(("item_id", "past.item_id")), frozenset(("item_id@1", "past.item_id@1"))}
    readers = ["item_id", "item_id@1", "device", "price", "past.item_id", "past.item_id@1"]
    assert pairs == {frozenset((a, b)) for a in readers for b in readers if a != b} - same_rows
    assert all(0 <= a["degrees"] <= 90 for a in shared["angles"])
    assert tables["array"]["physical"] == []
    assert tables["array"]["collisions"]["all_features"] is None
    assert tables["hour"]["physical"][0]["load_factor"] == 1


def read_manifest_of(trained, name="DCNv2"):
    return read_manifest(find_checkpoint(run_of(trained, name)))


def test_tables_and_words_for_people(trained, capsys):
    assert recsys_command("inspect-tables", run_of(trained, "DCNv2")) == 0
    printed = capsys.readouterr().out
    assert "Angles of shared" in printed
    assert "array: robe has no rows, so no collisions or norms" in printed
    assert "shared: only vocabularies count their ids, so collisions leave out price" in printed


def test_a_sequence_run_has_tables_but_no_angles(trained, capsys):
    content, tables = inspected(capsys, run_of(trained, "SASRec"))
    why = "angles between readers are measured on rankers of one vector per feature only"
    assert content["no_angles"] == why
    assert tables["shared"]["angles"] is None
    assert tables["shared"]["physical"][0]["load_factor"] == 51 / 20


def test_without_its_data_a_run_has_no_angles_and_no_proposal(trained, tmp_path, capsys):
    manifest = json.loads((find_checkpoint(run_of(trained, "FM")) / "manifest.json").read_text())
    manifest["config"]["data"]["data_dir"] = str(tmp_path / "gone")
    run = tmp_path / "run"
    shutil.copytree(run_of(trained, "FM"), run, symlinks=False)
    (find_checkpoint(run) / "manifest.json").write_text(json.dumps(manifest))
    (find_checkpoint(run) / "sums.json").unlink()
    content, tables = inspected(capsys, run)
    assert content["no_angles"].startswith(
        "angles between readers need the run's data: sources.events: no such file, got "
    )
    assert tables["shared"]["angles"] is None
    assert recsys_command("propose-probes", run) == 2
    assert "sources.events: no such file" in capsys.readouterr().err


def test_data_that_is_encoded_in_another_way_is_refused(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(run_of(trained, "FM"), run)
    file = run / "features.yaml"
    file.write_text(file.read_text().replace("quantiles: 4", "quantiles: 5"))
    assert recsys_command("propose-probes", run) == 2
    assert "is encoded in another way than in training" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["inspect-tables", "propose-probes"])
def test_what_is_no_run_is_refused(verb, tmp_path, capsys):
    assert recsys_command(verb, tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"RUN: has no checkpoint, got {tmp_path}; allowed ")


# ------------------------------------------------------------------------------ propose-probes
def test_the_feature_that_decides_is_worth_more_than_noise(trained):
    found = propose_probes(run_of(trained, "DCNv2"), max_dim=None)
    drops = {c.feature: c.drop for c in found.candidates}
    assert list(drops) == ["item_id", "device", "price"]
    assert found.auc > 0.95
    assert found.auc == pytest.approx(read_manifest_of(trained).metrics["val/auc/mobile"])
    assert drops["device"] > 0.3
    assert abs(drops["item_id"]) < 0.05
    # 51 ids start with 1 probe; the one to give goes to the device.
    assert found.probes == {"item_id": 1, "device": 2, "price": 1}
    # item_id has two columns: item_id itself and past.item_id
    assert found.widths == (2 * 8 + 4 + 4 + 4 + 4, 2 * 4 + 8 + 4 + 4 + 4)
    assert found.lines == (
        "  - {name: item_id, kind: categorical, table: shared, probes: 1}",
        "  - {name: device, kind: categorical, table: shared, probes: 2}",
    )
    assert found.refusal == ""
    again = propose_probes(run_of(trained, "DCNv2"), max_dim=24)
    assert again.candidates == found.candidates
    assert again.probes["device"] == 1


def test_the_proposal_is_printed(trained, capsys):
    assert recsys_command("propose-probes", run_of(trained, "DCNv2"), "--max-dim", 28) == 0
    printed = capsys.readouterr().out
    assert "width of the ranker's input: 32 now, 28 as proposed" in printed
    assert "  - {name: device, kind: categorical, table: shared, probes: 2}\n" in printed
    assert "other probes mean other rows and another model: train anew" in printed
    assert recsys_command("propose-probes", run_of(trained, "DCNv2"), "--max-dim", 23) == 2
    assert "--max-dim: is less than" in capsys.readouterr().err


def test_a_model_that_wants_one_width_says_so(trained, capsys):
    assert recsys_command("propose-probes", run_of(trained, "FM")) == 0
    printed = capsys.readouterr().out
    assert "this ranker cannot read them so: FM: needs all fields of one width" in printed


def test_a_feature_that_is_like_another_keeps_its_probe(trained):
    found = propose_probes(run_of(trained, "FM"), max_dim=None)
    assert [c.feature for c in found.candidates] == ["item_id", "device", "price"]
    before, after = found.widths
    changes = {c.feature: found.probes[c.feature] - c.probes for c in found.candidates}
    assert after - before == 4 * (2 * changes["item_id"] + changes["device"] + changes["price"])


def test_other_runs_have_no_proposal(trained, capsys):
    assert recsys_command("propose-probes", run_of(trained, "SASRec")) == 2
    assert "RUN: was trained by a SequenceTask" in capsys.readouterr().err


def test_a_sample_is_spread_over_the_rows(trained):
    checkpoint = find_checkpoint(run_of(trained, "FM"))
    manifest = read_manifest(checkpoint)
    task = load_task(checkpoint, manifest)
    whole = validation_sample(task, checkpoint, manifest, max_examples=10_000)
    part = validation_sample(task, checkpoint, manifest, max_examples=170)
    # Sixteen batches of eleven rows, from the first to the last; the last of these is cut.
    firsts = 11 * np.linspace(0, (NUM_ROWS - 1) // 11, 16).round().astype(int)
    places = torch.cat([torch.arange(first, min(first + 11, NUM_ROWS)) for first in firsts])[:170]
    assert (len(whole), len(part)) == (NUM_ROWS, len(places))
    torch.testing.assert_close(part.labels_E, whole.labels_E[places])
    for key, vectors in part.embedded.fields.items():
        torch.testing.assert_close(vectors, whole.embedded.fields[key][places])
