"""Codes: signs and levels by hand, packed scores by plain loops, files, and what a fit is worth."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from features.errors import OutputError, SchemaMismatchError
from recsys.codes import codebook
from recsys.codes.binariser import Binariser, levels
from recsys.codes.codebook import Codebook, encoded
from recsys.codes.fitting import fit_binariser
from recsys.codes.packed import pack, symmetric_scores, unpacked_levels
from recsys.codes.search import CodeSearch
from recsys.nearest.exact import Candidates, Seen, best_items
from recsys.retrieval.ann import recall


def test_a_binariser_by_hand():
    binariser = Binariser(width=2, bits_per_step=2, num_steps=2)
    with torch.no_grad():
        binariser.down[0].weight.copy_(torch.eye(2))
        binariser.down[0].bias.zero_()
        binariser.up[0].weight.copy_(torch.eye(2))
        binariser.up[0].bias.zero_()
        binariser.down[1].weight.copy_(torch.eye(2))
        binariser.down[1].bias.zero_()
    # (3, 4) becomes sqrt(2) (.6, .8) = (.849, 1.131): signs (1, 1), left (-.151, .131).
    bits_NTM = binariser(torch.tensor([[3.0, 4.0], [0.0, -5.0]]))
    # (0, -1.414): signs (1, -1), as 0 counts as positive, left (-1, -.414).
    assert bits_NTM.tolist() == [[[1, 1], [-1, 1]], [[1, -1], [-1, -1]]]
    assert levels(bits_NTM).tolist() == [[1, 3], [1, -3]]  # 2 * first + second


def test_gradients_pass_signs_only_near_zero():
    binariser = Binariser(width=1, bits_per_step=2, num_steps=1)
    with torch.no_grad():
        binariser.down[0].weight.copy_(torch.tensor([[0.5], [2.0]]))
        binariser.down[0].bias.zero_()
    binariser(torch.tensor([[7.0]])).sum().backward()  # of length 1: .5 and 2
    assert binariser.down[0].weight.grad.tolist() == [[1.0], [0.0]]


def test_a_vector_of_zeros_has_a_code():
    codes = encoded(Binariser(width=4, bits_per_step=8, num_steps=2), torch.zeros(1, 4))
    assert codes.shape == (1, 2)
    assert codes.dtype == torch.uint8


@given(
    st.integers(0, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9)
)
def test_packed_scores_are_those_of_a_loop(users, items, num_bytes, num_steps, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (users + items, num_steps, 8 * num_bytes)
    bits_NTM = torch.randint(0, 2, shape, generator=generator).float() * 2 - 1
    codes_NY = pack(bits_NTM)
    assert codes_NY.shape == (users + items, num_steps * num_bytes)
    assert torch.equal(unpacked_levels(codes_NY, num_steps=num_steps), levels(bits_NTM))
    scores = symmetric_scores(codes_NY[:users], codes_NY[users:], num_steps=num_steps).tolist()
    for user in range(users):
        for item in range(items):
            expected = sum(
                2 ** (num_steps - 1 - s)
                * 2 ** (num_steps - 1 - t)
                * (8 * num_bytes - 2 * apart(bits_NTM[user, s], bits_NTM[users + item, t]))
                for s in range(num_steps)
                for t in range(num_steps)
            )
            assert scores[user][item] == expected


def apart(first_M, second_M):
    return sum(a != b for a, b in zip(first_M.tolist(), second_M.tolist(), strict=True))


@pytest.fixture(scope="module")
def fitted():
    """Codes of 4 bytes for vectors of 32, and users they were not fitted on."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(30, 8, generator=generator)
    vectors_VD = centres[torch.arange(1500) % 30] + torch.randn(1500, 8, generator=generator)
    users_UD = 2 * centres[torch.arange(300) % 30] + torch.randn(300, 8, generator=generator)
    items = Candidates.of(vectors_VD)
    lists_UH = items.place_V[best_items(users_UD[:200], items, k=400).ids_BK]
    generator_before = torch.get_rng_state()
    binariser = fit_binariser(users_UD[:200], items.vectors_CD, lists_UH=lists_UH, bits=32)
    assert torch.equal(torch.get_rng_state(), generator_before)
    return Codebook.of(binariser, vectors_VD), vectors_VD, users_UD[200:]


def mean_recall(found_BK, users_BD, items, **seen):
    return recall(found_BK, best_items(users_BD, items, k=100, **seen).ids_BK).mean().item()


def test_fitted_codes_find_more_than_signs_of_the_same_size(fitted):
    codes, vectors_VD, users_BD = fitted
    assert codes.bits == 32
    assert codes.items_VY.shape == (1500, 4)
    items = Candidates.of(vectors_VD)
    search = CodeSearch(items, codebook=codes)
    assert search.bytes_per_item == 4
    alone = mean_recall(search.first_step(users_BD, k=100), users_BD, items)
    # As many signs of random directions, the codes that need no fitting.
    directions = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    signs = (users_BD @ directions).sign() @ (vectors_VD[1:] @ directions).sign().T
    unfitted = mean_recall(signs.topk(100).indices + 1, users_BD, items)
    assert alone > unfitted + 0.05
    rescored = search.best_items(users_BD, k=100)
    assert mean_recall(rescored.ids_BK, users_BD, items) > max(0.95, alone)
    scores = (vectors_VD[rescored.ids_BK] @ users_BD.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(rescored.scores_BK, scores)


def test_codes_leave_out_what_may_not_be_given(fitted):
    codes, vectors_VD, users_BD = fitted
    allowed_V = torch.arange(1500) % 5 == 0
    items = Candidates.of(vectors_VD, allowed_V=allowed_V)
    had = torch.arange(0, 300, 3).repeat(len(users_BD))
    seen = Seen(had, torch.full((len(users_BD),), 100))
    search = CodeSearch(items, codebook=codes)
    for k in (7, 400):  # of 299 allowed, 20 of them seen
        for ids_BK in (
            search.first_step(users_BD, k=k, seen=seen),
            search.best_items(users_BD, k=k, seen=seen).ids_BK,
        ):
            wanted = [i for i in range(5, 1500, 5) if i % 3 or i >= 300]
            assert ids_BK.shape == (len(users_BD), min(k, 299))
            for ids_K in ids_BK.tolist():
                given = [i for i in ids_K if i]
                assert len(given) == min(k, len(wanted))
                assert len({*given}) == len(given)
                assert {*given} <= {*wanted}


def test_codes_are_read_again(fitted, tmp_path):
    codes, vectors_VD, users_BD = fitted
    file = tmp_path / "a.safetensors"
    codebook.save(codes, file, bundle="one")
    assert [f.name for f in tmp_path.iterdir()] == [file.name]
    again = codebook.load(file, bundle="one", num_items=1500, width=8)
    items = Candidates.of(vectors_VD)
    first, second = (CodeSearch(items, codebook=c) for c in (codes, again))
    assert torch.equal(first.first_step(users_BD, k=9), second.first_step(users_BD, k=9))
    for changed in ({"bundle": "two"}, {"num_items": 1499}, {"width": 9}):
        wanted = {"bundle": "one", "num_items": 1500, "width": 8} | changed
        with pytest.raises(SchemaMismatchError, match=r"is of other vectors, got .*; delete it"):
            codebook.load(file, **wanted)


def test_two_may_write_the_same_file(fitted, tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"

    def write_and_be_overtaken(*arguments, **options):
        save_file(*arguments, **options)
        monkeypatch.setattr(codebook, "save_file", save_file)
        codebook.save(fitted[0], file, bundle="one")

    monkeypatch.setattr(codebook, "save_file", write_and_be_overtaken)
    codebook.save(fitted[0], file, bundle="one")
    codebook.load(file, bundle="one", num_items=1500, width=8)
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def broken_files(file):
    with safe_open(file, framework="pt") as opened:
        says = opened.metadata()["codes"]
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    yield None, None
    yield tensors, {}
    yield tensors, {"codes": "no JSON"}
    yield tensors, {"codes": json.dumps([1])}
    yield tensors, {"codes": json.dumps(json.loads(says) | {"num_steps": 3})}
    yield {k: v for k, v in tensors.items() if k != "items"}, {"codes": says}
    yield tensors | {"items": tensors["items"][:, :3].contiguous()}, {"codes": says}


def test_files_that_hold_no_codes(fitted, tmp_path):
    file, broken = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    codebook.save(fitted[0], file, bundle="one")
    for tensors, says in broken_files(file):
        if tensors is None:
            broken.write_bytes(file.read_bytes()[:-5])
        else:
            save_file(tensors, broken, metadata=says)
        with pytest.raises(SchemaMismatchError, match=r"holds no codes, got .*; delete it, and"):
            codebook.load(broken, bundle="one", num_items=1500, width=8)
    with pytest.raises(OutputError, match=r"cannot be written, got"):
        codebook.save(fitted[0], tmp_path / "none" / "a.safetensors", bundle="one")


@pytest.mark.parametrize(("num_users", "num_items", "width"), [(1, 1, 1), (2, 3, 5)])
def test_hardly_anything_to_fit(num_users, num_items, width, monkeypatch):
    monkeypatch.setattr("recsys.codes.fitting._STEPS", 4)
    users_UD, items = torch.ones(num_users, width), Candidates.of(torch.ones(num_items + 1, width))
    lists_UH = items.place_V[best_items(users_UD, items, k=400).ids_BK]
    binariser = fit_binariser(users_UD, items.vectors_CD, lists_UH=lists_UH, bits=16)
    assert encoded(binariser, items.vectors_CD).shape == (num_items, 2)
