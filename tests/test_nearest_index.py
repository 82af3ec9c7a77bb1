"""Indexes find most of the best items, with exact scores, and are read again from their files."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from features.errors import SchemaMismatchError
from recsys.nearest.exact import Candidates, Seen, best_items, best_of
from recsys.retrieval.ann import recall

KINDS = ["ivf", "hnsw", "pq"]


@pytest.fixture(scope="module")
def clustered():
    """Vectors with neighbours, as trained ones have."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 16, generator=generator)
    vectors_VD = centres[torch.arange(3000) % 40]
    vectors_VD = vectors_VD + 0.5 * torch.randn(3000, 16, generator=generator)
    users_BD = centres[:20] + 0.5 * torch.randn(20, 16, generator=generator)
    seen = torch.randint(1, 3000, (20 * 30,), generator=generator)
    allowed_V = torch.rand(3000, generator=generator) < 0.8
    return Candidates.of(vectors_VD, allowed_V=allowed_V), users_BD, seen, torch.full((20,), 30)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_finds_most_and_is_read_again(clustered, tmp_path, kind):
    pytest.importorskip("faiss")
    from recsys.nearest.index import ItemIndex

    items, users_BD, seen, lengths_B = clustered
    wanted = {"k": 20, "seen": Seen(seen, lengths_B)}
    exact = best_items(users_BD, items, **wanted)
    index = ItemIndex(items, kind=kind, path=tmp_path / "a.faiss")
    found = index.best_items(users_BD, **wanted)
    assert index.is_new
    assert recall(found.ids_BK, exact.ids_BK).mean() > 0.9
    for user, ids_K in enumerate(found.ids_BK):
        had = set(seen[30 * user : 30 * user + 30].tolist())
        assert not set(ids_K.tolist()) & had
        assert set(ids_K.tolist()) <= {*items.ids_C.tolist()}
        scores_K = items.vectors_CD[items.place_V[ids_K]] @ users_BD[user]
        torch.testing.assert_close(found.scores_BK[user], scores_K)
        assert found.scores_BK[user].diff().le(0).all()
    again = ItemIndex(items, kind=kind, path=tmp_path / "a.faiss")
    assert not again.is_new
    assert torch.equal(again.best_items(users_BD, **wanted).ids_BK, found.ids_BK)
    fewer = Candidates.of(torch.ones(7, 16))
    with pytest.raises(SchemaMismatchError, match=r"is of other items, got .*; allowed 6; delete"):
        ItemIndex(fewer, kind=kind, path=tmp_path / "a.faiss")
    (tmp_path / "a.faiss").write_bytes(b"nothing")
    with pytest.raises(SchemaMismatchError, match=r"is no index, got .*; delete it"):
        ItemIndex(items, kind=kind, path=tmp_path / "a.faiss")


@pytest.mark.parametrize("kind", KINDS)
def test_few_items(tmp_path, kind):
    pytest.importorskip("faiss")
    from recsys.nearest.index import ItemIndex

    items = Candidates.of(torch.eye(5)[:, :3])
    found = ItemIndex(items, kind=kind, path=tmp_path / "few.faiss").best_items(
        torch.tensor([[1.0, 2.0, 3.0]]),
        k=10,
        seen=Seen(torch.tensor([2]), torch.tensor([1])),
    )
    assert found.ids_BK[0, :3].tolist() == [1, 3, 4]
    assert found.ids_BK.shape == (1, 4)
    assert found.ids_BK[0, 3] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_item(tmp_path, kind):
    pytest.importorskip("faiss")
    from recsys.nearest.index import ItemIndex

    items = Candidates.of(torch.tensor([[9.0, 9.0, 9.0], [0.5, 2.0, 3.0]]))
    for is_new in (True, False):
        index = ItemIndex(items, kind=kind, path=tmp_path / "one.faiss")
        assert index.is_new == is_new
        assert index.is_exact == (kind == "pq")
        found = index.best_items(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]), k=3)
        assert found.ids_BK.tolist() == [[1], [1]]
        assert found.scores_BK.tolist() == [[13.5], [3.0]]


def test_a_search_takes_one_thread_and_leaves_the_others_alone(clustered, tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss")
    from recsys.nearest.index import ItemIndex

    items, users_BD, _, _ = clustered
    counts = {"train": [], "search": []}
    for name, found in counts.items():
        before = getattr(faiss.IndexIVFFlat, name)

        def counting(*arguments, before=before, found=found, **options):
            found.append(faiss.omp_get_max_threads())
            return before(*arguments, **options)

        monkeypatch.setattr(faiss.IndexIVFFlat, name, counting)
    opened = ItemIndex(items, kind="ivf", path=tmp_path / "a")

    def work(name):
        torch.get_num_threads()  # the first time, it sets the number for this thread
        faiss.omp_set_num_threads(3)
        opened.best_items(users_BD, k=5)
        ItemIndex(items, kind="ivf", path=tmp_path / name).first_step(users_BD, k=5)
        return faiss.omp_get_max_threads()

    with ThreadPoolExecutor(2) as executor:
        assert [*executor.map(work, "bc")] == [3, 3]
    assert counts == {"train": [counts["train"][0], 3, 3], "search": [1, 1, 1, 1]}


def test_two_may_build_the_same_index(clustered, tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss")
    from recsys.nearest.index import ItemIndex

    wanted = {"kind": "hnsw", "path": tmp_path / "a.faiss"}
    items, users_BD, _, _ = clustered
    write_index, others = faiss.write_index, []

    def write_and_be_overtaken(index, name):
        write_index(index, name)
        monkeypatch.setattr(faiss, "write_index", write_index)
        others.append(ItemIndex(items, **wanted))

    monkeypatch.setattr(faiss, "write_index", write_and_be_overtaken)
    found = [index.best_items(users_BD, k=5) for index in (ItemIndex(items, **wanted), *others)]
    assert torch.equal(found[0].ids_BK, found[1].ids_BK)
    assert [path.name for path in tmp_path.iterdir()] == ["a.faiss"]


def test_the_best_of_all_candidates_are_the_best(clustered):
    items, users_BD, seen, lengths_B = clustered
    wanted = {"k": 30, "seen": Seen(seen, lengths_B)}
    everything = torch.arange(len(items)).flip(0).expand(len(users_BD), -1)
    found, exact = (
        best_of(everything, users_BD, items, **wanted),
        best_items(users_BD, items, **wanted),
    )
    assert torch.equal(found.ids_BK, exact.ids_BK)
    torch.testing.assert_close(found.scores_BK, exact.scores_BK)


def test_recall_of_lists():
    exact_BK = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 0, 0]])
    found_BK = torch.tensor([[4, 9, 1, 0], [6, 7, 8, 5], [1, 2, 3, 4]])
    assert recall(found_BK, exact_BK).tolist() == [0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("had", "most"), [([], 0), ([[]], 0), ([[5, 5, 5, 2], [7]], 2), ([[0], [0, 1, 0, 3], []], 3)]
)
def test_items_that_are_had_twice_take_one_place(had, most):
    from recsys.nearest.index import _most_seen

    values = torch.tensor([item for of_user in had for item in of_user], dtype=torch.int64)
    lengths_B = torch.tensor([len(of_user) for of_user in had], dtype=torch.int64)
    assert _most_seen(Seen(values, lengths_B)) == most
    assert _most_seen(None) == 0
