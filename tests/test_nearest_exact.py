"""The best items by dot product are those of a plain loop, ties and seen items included."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.nearest import exact
from recsys.nearest.exact import Candidates, Seen, best_items


def by_hand(users, vectors, *, allowed, seen, k):
    """(id, score) of the best items of each user."""
    found = []
    for user, had in zip(users.tolist(), seen, strict=True):
        scored = []
        for item, vector in enumerate(vectors.tolist()):
            if item == 0 or not allowed[item] or item in had:
                continue
            score = sum(a * b for a, b in zip(user, vector, strict=True))
            scored.append((-score, item))
        found.append([(item, -negative) for negative, item in sorted(scored)[:k]])
    return found


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_best_items_are_those_of_a_loop(data):
    """Small whole numbers, so that scores are exact and many are equal."""
    draw = data.draw
    num_items, num_users = draw(st.integers(1, 90)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    high = draw(st.integers(1, 4))
    vectors_VD = torch.randint(-high, high, (num_items, 3), generator=generator).float()
    users_BD = torch.randint(-high, high, (num_users, 3), generator=generator).float()
    allowed_V = torch.rand(num_items, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    seen = draw(
        st.lists(
            st.lists(st.integers(0, num_items - 1), max_size=12),
            min_size=num_users,
            max_size=num_users,
        )
    )
    k = draw(st.integers(1, 12))
    block, chunk = exact._BLOCK, exact._CHUNK
    try:
        exact._BLOCK, exact._CHUNK = 2, draw(st.sampled_from([3, 7, 64]))
        best = best_items(
            users_BD,
            Candidates.of(vectors_VD, allowed_V=allowed_V),
            k=k,
            seen=Seen(
                torch.tensor([i for had in seen for i in had], dtype=torch.int64),
                torch.tensor([len(had) for had in seen]),
            ),
        )
    finally:
        exact._BLOCK, exact._CHUNK = block, chunk
    expected = by_hand(users_BD, vectors_VD, allowed=allowed_V, seen=seen, k=k)
    for ids_K, scores_K, of_user in zip(best.ids_BK, best.scores_BK, expected, strict=True):
        is_item = ids_K > 0
        found = list(zip(ids_K[is_item].tolist(), scores_K[is_item].tolist(), strict=True))
        assert found == of_user
        assert (scores_K[~is_item] == -torch.inf).all()
        assert is_item.int().diff().le(0).all()


def test_many_items_are_those_of_a_full_sort():
    generator = torch.Generator().manual_seed(0)
    vectors_VD = torch.randn(40_000, 8, generator=generator)
    vectors_VD[20_000:20_100] = vectors_VD[100:200]  # equal scores in two chunks
    users_BD = torch.randn(6, 8, generator=generator)
    best = best_items(users_BD, Candidates.of(vectors_VD), k=50)
    scores_BV = users_BD.double() @ vectors_VD.double().T
    scores_BV[:, 0] = -torch.inf
    expected = scores_BV.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(best.ids_BK, expected.indices[:, :50])
    torch.testing.assert_close(best.scores_BK.double(), expected.values[:, :50], atol=1e-5, rtol=0)


def test_negative_zero_ties_with_zero():
    vectors_VD = torch.tensor([[0.0], [-0.0], [0.0], [-0.0]])
    best = best_items(torch.tensor([[-1.0], [1.0]]), Candidates.of(vectors_VD), k=3)
    assert best.ids_BK.tolist() == [[1, 2, 3], [1, 2, 3]]
