"""A new model's vectors in an old bundle's space: rotations are found, lists stay as they were."""

import shutil
from dataclasses import replace

import polars as pl
import pytest
import torch
from bundles import data_module
from commands import recsys_command
from hypothesis import given
from hypothesis import strategies as st
from upgrades import bundle_of, edit_manifest, random_rotation, turn

from features.storage import save_schema
from recsys.bundle import SCHEMA, TABLES, bundle_id, read_bundle
from recsys.exporting.alignment import rotation_onto
from recsys.scoring.scorer import Scorer


def export(generations, out, older, *arguments, name="BERT4Rec"):
    run = generations / "new" / "runs" / name
    return recsys_command("export", run, "--out", out, "--compatible-with", older, *arguments)


# ---------------------------------------------------------------------------------- rotations
@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 99))
def test_a_rotation_is_found_again(width, more, seed):
    rotation_DD = random_rotation(width, seed=seed)
    new_CD = torch.randn(width + more, width, dtype=torch.float64)
    found_DD = rotation_onto(new_CD, 3 * new_CD @ rotation_DD)
    torch.testing.assert_close(found_DD, rotation_DD, atol=1e-6, rtol=0)


def test_no_other_rotation_is_nearer():
    generator = torch.Generator().manual_seed(0)
    new_CD, old_CD = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    found_DD = rotation_onto(new_CD, old_CD)
    identity_DD = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(found_DD @ found_DD.T, identity_DD)
    least = (new_CD @ found_DD - old_CD).square().sum()
    others = [random_rotation(4, seed=seed) for seed in range(300)]
    near = [found_DD @ torch.matrix_exp(0.01 * (a - a.T)) for a in others]
    assert all((new_CD @ r - old_CD).square().sum() > least for r in [*others, *near])


def test_fewer_items_than_numbers_still_give_a_rotation():
    for new_CD in (torch.zeros(2, 5), torch.randn(1, 5)):
        found_DD = rotation_onto(new_CD, torch.randn(len(new_CD), 5))
        torch.testing.assert_close(found_DD @ found_DD.T, torch.eye(5, dtype=torch.float64))


# ------------------------------------------------------------------------------------ bundles
def vectors(bundle, batch):
    scorer = Scorer(bundle)
    return scorer.user_vectors(batch), scorer.item_vectors_VD


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        pytest.param(("--table-dtype", "fp16", "--width", 5), marks=pytest.mark.slow),
    ],
)
def test_items_that_were_turned_are_turned_back(generations, tmp_path, arguments):
    """The older bundle is the model itself, turned by hand and half as long."""
    plain, older, out = (tmp_path / name for name in ("plain", "older", "out"))
    run = generations / "new" / "runs" / "BERT4Rec"
    assert recsys_command("export", run, "--out", plain, *arguments) == 0
    shutil.copytree(plain, older)
    width = read_bundle(plain)[0].width
    rotation_DD = random_rotation(width, seed=1).float()
    turn(older, 0.5 * rotation_DD)
    assert export(generations, out, older, *arguments) == 0
    batch = next(iter(data_module(generations / "new", "sequence").test_dataloader()))
    users_BD, items_VD = vectors(plain, batch)
    turned_BD, turned_VD = vectors(out, batch)
    assert items_VD.shape[1] == width + 1
    torch.testing.assert_close(
        turned_VD[:, :-1], items_VD[:, :-1] @ rotation_DD / 2, atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(
        turned_BD[:, :-1], users_BD[:, :-1] @ rotation_DD * 2, atol=1e-2, rtol=1e-3
    )
    assert torch.equal(turned_VD[:, -1], items_VD[:, -1])  # biases
    assert torch.equal(turned_BD[:, -1], users_BD[:, -1])
    torch.testing.assert_close(turned_BD @ turned_VD.T, users_BD @ items_VD.T)
    said = read_bundle(out)[0].compatible_with
    assert said["bundle"] == bundle_id(older)
    assert said["num_items"] == said["num_older_items"] == len(items_VD) - 1
    assert said["scale"] == pytest.approx(0.5, abs=1e-3)
    assert said["cosine"] == pytest.approx(1, abs=1e-5)


def test_lists_of_a_turned_model_are_its_own(generations, tmp_path, capsys):
    out, data = tmp_path / "out", generations / "new" / "data"
    assert export(generations, out, bundle_of(generations, "old")) == 0
    said = read_bundle(out)[0].compatible_with
    old = Scorer(bundle_of(generations, "old"))
    assert 8 <= said["num_items"] == len(old.item_vectors_VD) - 1 < 30
    assert "turned into the space of bundle" in (printed := capsys.readouterr().out)
    assert f"fitted on {said['num_items']} of its {said['num_items']} items" in printed
    assert "warning" not in printed
    frames = []
    for name, bundle in (("plain", bundle_of(generations, "new")), ("turned", out)):
        folder = tmp_path / name
        assert recsys_command("retrieve", bundle, data, "--out", folder) == 0
        frames.append(pl.read_parquet(folder / "part-*.parquet"))
    assert frames[0].drop("score").equals(frames[1].drop("score"))
    scores = [frame["score"].to_list() for frame in frames]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    # And they lie nearer to the old ones: by raw ids, as text.
    names = {str(n): row for row, n in enumerate(old.schema.vocabulary_of("item_id").values, 1)}
    cosines = []
    for bundle in (bundle_of(generations, "new"), out):
        new = Scorer(bundle)
        rows = [names.get(str(n), 0) for n in new.schema.vocabulary_of("item_id").values]
        is_common = torch.tensor(rows) > 0
        pairs = new.item_vectors_VD[1:, :-1][is_common], old.item_vectors_VD[rows, :-1][is_common]
        cosines.append(torch.cosine_similarity(*pairs))
    assert float(cosines[1].mean()) == pytest.approx(said["cosine"], abs=1e-5)
    assert cosines[1].mean() > cosines[0].mean()


def rename_items(bundle, *, kept):
    """Other raw ids for all but some items."""
    _, schema = read_bundle(bundle)
    vocabulary = schema.vocabulary_of("item_id")
    names = [n if i < kept else f"gone {n}" for i, n in enumerate(vocabulary.values)]
    renamed = replace(vocabulary, values=pl.Series(names))
    shutil.rmtree(bundle / SCHEMA)
    vocabularies = {**schema.vocabularies, "item_id": renamed}
    save_schema(replace(schema, vocabularies=vocabularies), bundle / SCHEMA)


def test_a_few_items_do_not_determine_it(generations, tmp_path, capsys):
    older = tmp_path / "older"
    shutil.copytree(bundle_of(generations, "new", "SASRec"), older)
    out = tmp_path / "out"
    rename_items(older, kept=3)
    edit_manifest(older, files={})
    assert export(generations, out, older, name="SASRec") == 0
    assert "warning: 3 items do not determine how vectors of 8 numbers" in capsys.readouterr().out


# ----------------------------------------------------------------------------------- mistakes
def other_width(older):
    edit_manifest(older, width=5)


def of_ranker(older):
    edit_manifest(older, task="ranking")


def damaged(older):
    (older / TABLES).write_bytes(b"")


def not_finite(older):
    turn(older, torch.full((8, 8), torch.nan))


def gone(older):
    shutil.rmtree(older)


def of_other_items(older):
    rename_items(older, kept=0)
    edit_manifest(older, files={})


MISTAKES = {
    of_other_items: "knows none of the items, got raw ids such as '",
    other_width: "has vectors of another width, got 8 numbers, and 5 in the bundle; allowed 5",
    of_ranker: "a bundle of task ranking; allowed one of a sequence model",
    damaged: "tables.safetensors: is not the file that was exported, got other bytes",
    not_finite: "has items whose vectors are not finite",
    gone: "is no bundle, got no manifest.json in it",
}


@pytest.mark.parametrize("spoil", MISTAKES, ids=lambda spoil: spoil.__name__)
def test_older_bundles_that_cannot_serve(generations, tmp_path, capsys, spoil):
    older, out = tmp_path / "older", tmp_path / "out"
    shutil.copytree(bundle_of(generations, "old"), older)
    spoil(older)
    assert export(generations, out, older) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("--compatible-with: ")
    assert MISTAKES[spoil] in line
    assert not list(tmp_path.glob("out*"))


def test_a_bias_on_one_side_alone(generations, tmp_path, capsys):
    assert export(generations, tmp_path / "out", bundle_of(generations, "old"), name="SASRec") == 2
    says = "--compatible-with: scores items otherwise, got none, and a bias of each item in the"
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
