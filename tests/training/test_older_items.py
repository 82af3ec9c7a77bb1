"""Training that pulls items to those of an older bundle."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import polars as pl
import pytest
import torch
import yaml
from commands import train_command
from test_score_sequences import SEQUENCE
from training.runs import data_module
from upgrades import bundle_of, edit_manifest

from features.errors import RunConfigError
from models import SASRec
from recsys.bundle_items import BundleItems, items_of_bundle
from recsys.checkpoint import read_manifest
from recsys.item_names import item_names
from recsys.losses import FullSoftmax, SampledSoftmax
from recsys.scoring.scorer import Scorer
from recsys.tables.config import TablesConfig
from recsys.tables.scheme import Part, PhysicalTable
from recsys.trained import load_task
from recsys.training.kept_items import KeptItems
from recsys.training.older_items import CompatibleWith, PulledItems
from recsys.training.sequence import SequenceTask
from recsys.training.sequence_step import share_of_all

NAMES = pl.Series(["a", "b", "c", None])
OLDER = BundleItems(pl.Series(["c", "x", "a"]), torch.arange(8.0).view(4, 2).cos(), False)


# ----------------------------------------------------------------------------------- the term
def test_the_mean_over_known_items_by_hand():
    older = PulledItems(OLDER, NAMES, widths=[2], has_bias=False, weight=3.0)
    ids_N = torch.tensor([1, 0, 3, 2, 3, 4])
    items_ND = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss, count = older(items_ND, ids_N)
    rows = {1: 3, 3: 1}  # a and c
    apart = []
    for item, vector_D in zip(ids_N.tolist(), items_ND, strict=True):
        if item in rows:
            old_D = OLDER.vectors_VD[rows[item]]
            apart.append(1 - vector_D @ old_D / vector_D.norm() / old_D.norm())
    assert count == len(apart) == 3
    torch.testing.assert_close(loss, 3 * torch.stack(apart).mean())
    loss.backward()
    assert items_ND.grad.abs().sum(1).bool().tolist() == [True, False, True, False, True, False]


def test_no_known_item_in_a_step():
    older = PulledItems(OLDER, NAMES, widths=[2], has_bias=False, weight=3.0)
    loss, count = older(torch.zeros(2, 2, requires_grad=True), torch.tensor([0, 2]))
    assert (loss.item(), count.item()) == (0, 0)
    loss.backward()
    loss, _ = older(torch.zeros(1, 2, requires_grad=True), torch.tensor([1]))
    assert loss.isfinite()


def test_all_mistakes_of_two_catalogues_at_once():
    with pytest.raises(RunConfigError) as raised:
        PulledItems(OLDER, pl.Series([7, 8]), widths=[4], has_bias=True, weight=1.0)
    width, bias, names = raised.value.mistakes
    assert width.startswith(
        "model.compatible_with.bundle: has vectors of another width, got 4 numbers"
    )
    assert "got a bias of each item, and none in the bundle" in bias
    assert "knows none of the items, got raw ids such as 7, 8 and, of the bundle, 'c', 'x'" in names


def built_task(generations, *, loss, dense_max_bytes=10**9, bundle=None, rank=0, world_size=1):
    data = data_module(generations / "new", "sequence", batch_size=16)
    settings = {} if bundle is None else {"compatible_with": CompatibleWith(bundle=str(bundle))}
    tables = TablesConfig(dense_max_bytes=dense_max_bytes)
    encoder = partial(SASRec, dropout=0.0)
    task = SequenceTask(encoder=encoder, tables=tables, loss=loss, ks=(4,), **settings)
    task.build(data.schema)
    task.embedder.materialize()
    task.check_inputs()
    task.trainer = SimpleNamespace(
        world_size=world_size,
        global_rank=rank,
        global_step=0,
        log_every_n_steps=10**9,
        is_last_batch=False,
        accumulate_grad_batches=1,
        gradient_clip_val=None,
        precision="32-true",
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    task.check_settings(task.trainer)
    return task, next(iter(data.train_dataloader()))


@pytest.mark.parametrize("dense_max_bytes", [10**9, 0])
@pytest.mark.parametrize("loss", [FullSoftmax(), SampledSoftmax(num_negatives=5)])
def test_it_is_added_to_the_loss_of_a_step(generations, loss, dense_max_bytes):
    if dense_max_bytes == 0 and isinstance(loss, FullSoftmax):
        pytest.skip("a full softmax needs a replicated table")
    bundle = bundle_of(generations, "new", "SASRec")
    task, batch = built_task(generations, loss=loss, dense_max_bytes=dense_max_bytes, bundle=bundle)
    plain, _ = built_task(generations, loss=loss, dense_max_bytes=dense_max_bytes)
    asked, look_up = [], task.embedder.sequences
    task.embedder.sequences = lambda keyed: asked.append(keyed) or look_up(keyed)
    found, without = task.training_step(batch, 0), plain.training_step(batch, 0)
    ids = torch.arange(task.num_items)
    if not isinstance(loss, FullSoftmax):  # targets and negatives come after all histories
        *_, ids = asked[0]["history.item_id"].to_dense()
    old_VD = Scorer(bundle).item_vectors_VD
    cosines = [
        torch.cosine_similarity(task.item_vectors_VD()[i], old_VD[i], dim=0) for i in ids if i
    ]
    expected = 5 * (1 - torch.stack(cosines)).mean()
    assert expected > 0.5
    torch.testing.assert_close(found - without, expected)


def test_the_mean_is_that_over_all_ranks(monkeypatch):
    """Two ranks with different numbers of known items; gradients are averaged over ranks."""
    counts = [3, 9]
    monkeypatch.setattr(
        "recsys.training.sequence_step.dist.all_reduce", lambda here: here.fill_(sum(counts))
    )
    means = [0.5, 0.25]
    shares = [share_of_all(torch.tensor(count), world_size=2) for count in counts]
    parts = [mean * share for mean, share in zip(means, shares, strict=True)]
    assert float(sum(parts)) / 2 == pytest.approx((0.5 * 3 + 0.25 * 9) / 12)
    assert share_of_all(torch.tensor(3), world_size=1) == 1


# ---------------------------------------------------------------------------------- whole runs
def run_file(generations, folder, **settings):
    """The run file of the new generation's SASRec, with further settings."""
    content = yaml.safe_load((generations / "new" / "SASRec.yaml").read_text())
    content["model"]["init_args"] |= settings
    content["run"] |= {"root": str(folder / "runs"), "test": False}
    file = folder / "upgraded.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def cosines(bundle, checkpoint):
    task = load_task(checkpoint, read_manifest(checkpoint))
    older = items_of_bundle(bundle, option="")
    return torch.cosine_similarity(task.item_vectors_VD()[1:], older.vectors_VD[1:])


def test_a_run_ends_near_the_older_items_and_needs_their_bundle_no_more(generations, tmp_path):
    bundle = shutil.copytree(bundle_of(generations, "new", "SASRec"), tmp_path / "older")
    seed = ("--seed_everything", 7, "--trainer.max_epochs", 6)
    file = run_file(generations, tmp_path, compatible_with={"bundle": str(bundle), "weight": 50.0})
    assert train_command("fit", "-c", file, *seed) == 0
    assert (
        train_command("fit", "-c", run_file(generations, tmp_path), *seed, "--run.name", "anew")
        == 0
    )
    near, apart = (
        cosines(bundle, tmp_path / "runs" / name / "checkpoints" / "last.ckpt").mean()
        for name in ("upgraded", "anew")
    )
    assert near > 0.9 > 0.5 > apart
    config = json.loads((tmp_path / "runs" / "upgraded" / "config.json").read_text())
    assert config["model"]["init_args"]["compatible_with"]["bundle"] == str(bundle)
    shutil.rmtree(bundle)
    kept = bundle_of(generations, "new", "SASRec")
    assert cosines(kept, tmp_path / "runs" / "upgraded" / "checkpoints" / "last.ckpt").mean() > 0.9
    file = run_file(generations, tmp_path, compatible_with={"bundle": str(bundle)})
    assert train_command("test", "-c", file) == 0


# ------------------------------------------------------------------------------ freeze and extend
WIDER = SEQUENCE.replace("dim: 8", "dim: 12")
KEEP_CASES = {
    "full softmax": {},
    "weight decay": {
        "optimizer": {
            "class_path": "torch.optim.Adam",
            "init_args": {"lr": 0.01, "weight_decay": 0.1},
        }
    },
    "sharded": {
        "loss": {"class_path": "SampledSoftmax", "init_args": {"num_negatives": 5}},
        "tables": {"dense_max_bytes": 0},
    },
    "separate": {"item_output": "separate"},
}


@pytest.mark.parametrize("case", KEEP_CASES)
def test_kept_items_stay_to_the_bit_and_new_ones_learn(generations, tmp_path, case):
    older = bundle_of(generations, "old", "SASRec")
    keep = {"bundle": str(older), "how": "keep"}
    file = run_file(generations, tmp_path, compatible_with=keep, **KEEP_CASES[case])
    assert train_command("fit", "-c", file, "--trainer.max_epochs", 2) == 0
    checkpoint = tmp_path / "runs" / "upgraded" / "checkpoints" / "last.ckpt"
    task = load_task(checkpoint, read_manifest(checkpoint))
    old = items_of_bundle(older, option="")
    ids_V = old.ids_of(item_names(task.schema).cast(pl.String))
    is_old_V = ids_V > 0
    assert 0 < is_old_V.sum() < len(is_old_V) - 1
    torch.testing.assert_close(
        task.item_vectors_VD()[is_old_V], old.vectors_VD[ids_V[is_old_V]], rtol=0, atol=0
    )
    begun = SequenceTask(encoder=SASRec, item_output=task.item_output)
    begun.build(task.schema)
    begun.embedder.materialize()
    is_new_V = ~is_old_V
    is_new_V[0] = False
    moved_V = (task.item_vectors_VD() - begun.item_vectors_VD())[is_new_V].abs().sum(1)
    assert (moved_V > 0).all()


def test_wider_items_keep_their_first_numbers(generations, tmp_path):
    older = bundle_of(generations, "new", "SASRec")
    file = run_file(
        generations,
        tmp_path,
        compatible_with={"bundle": str(older), "how": "keep"},
        prefix_widths=[8],
    )
    features = tmp_path / "wider.yaml"
    features.write_text(WIDER)
    assert train_command("fit", "-c", file, "--data.features", features) == 0
    checkpoint = tmp_path / "runs" / "upgraded" / "checkpoints" / "last.ckpt"
    found_VD = load_task(checkpoint, read_manifest(checkpoint)).item_vectors_VD()
    old = items_of_bundle(older, option="")
    assert found_VD.shape == (len(old.vectors_VD), 12)
    assert found_VD[1:, :8].equal(old.vectors_VD[1:])
    assert found_VD[:, 8:].abs().min() > 0


def test_rows_that_items_cannot_keep(generations, tmp_path, capsys):
    older = bundle_of(generations, "new", "SASRec")
    features = tmp_path / "hashed.yaml"
    hashed = SEQUENCE.replace(
        "item_id, kind: categorical}", "item_id, kind: categorical, table: t}"
    )
    features.write_text(f"{hashed}tables: {{t: {{scheme: hash, rows: 9}}}}\n")
    keep = {"bundle": str(older), "how": "keep"}
    file = run_file(generations, tmp_path, compatible_with=keep)
    assert train_command("fit", "-c", file, "--data.features", features) == 2
    assert "tables.t.scheme: items keep their vectors in rows of their own, got hash" in (
        capsys.readouterr().err
    )


MISTAKES = {
    "gone": ({}, "is no bundle, got no manifest.json in it; make one with `python -m recsys"),
    "ranker": ({"task": "ranking"}, "a bundle of task ranking; allowed one of a sequence model"),
    "width": ({"width": 5}, "got 8 numbers, and 5 in the bundle; allowed 5"),
    "damaged": ({"files": {"tables.safetensors": "0"}}, "tables.safetensors: is not the file that"),
    "json": (None, "manifest.json: is damaged, got no JSON"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_come_before_anything_is_written(generations, tmp_path, capsys, case):
    older = shutil.copytree(bundle_of(generations, "new", "SASRec"), tmp_path / "older")
    edit, says = MISTAKES[case]
    if case == "gone":
        shutil.rmtree(older)
    elif edit is None:
        (older / "manifest.json").write_text("{")
    else:
        edit_manifest(older, **edit)
    file = run_file(generations, tmp_path, compatible_with={"bundle": str(older)})
    assert train_command("fit", "-c", file) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("model.compatible_with.bundle: ")
    assert says in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_none(weight):
    with pytest.raises(RunConfigError, match=r"model\.compatible_with\.weight: is no weight, got"):
        CompatibleWith(bundle="b", weight=weight)


def test_ways_that_are_none_and_biases_that_would_move():
    with pytest.raises(RunConfigError, match=r"how: is unknown, got 'hold'; allowed pull, keep"):
        CompatibleWith(bundle="b", how="hold")
    older = BundleItems(OLDER.names, OLDER.vectors_VD, True)
    with pytest.raises(RunConfigError, match="got keep for an encoder with a bias of each item"):
        KeptItems.of(older, NAMES, widths=[2], has_bias=True)


@pytest.mark.parametrize("place", [(0, 0), (2, 0), (0, 1), (1, 2), (9, 0)])
def test_a_part_of_a_table_gets_what_belongs_there(place):
    """Against a whole table: old vectors in rows 5 + id, first numbers of 3."""
    row, column = place
    kept = KeptItems(torch.tensor([1, 3]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    whole = torch.zeros(20, 3)
    whole[[6, 8], :2] = kept.vectors_KD
    table = PhysicalTable("items", num_rows=20, dim=3)
    part = Part(table, torch.zeros(4, 3)[:, column:], row + 3, column)
    for values, rows, vectors in kept._pieces(part, kept.ids_K + 5):
        values[rows] = vectors
    assert part.values.equal(whole[row + 3 : row + 7, column:])
