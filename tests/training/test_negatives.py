import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.training.negatives import ItemPopularity, draw_negatives

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=8)
COUNTS = torch.tensor([1000, 50, 0, 30, 20, 0])  # of ids 0 to 5


def draw(lengths, users=None, *, num_items=6, count=3, per="sequence", salt=1, popularity=None):
    return draw_negatives(
        torch.arange(len(lengths)) if users is None else torch.tensor(users),
        torch.tensor(lengths),
        num_items=num_items,
        count=count,
        per=per,
        salt=salt,
        popularity=popularity,
    )


def of_each_sequence(lengths, users=None, *, per, popularity=None):
    """Per sequence, the negatives of each of its positions."""
    negatives = draw(lengths, users, count=4, per=per, popularity=popularity)
    ids_MK = negatives.ids_SK.repeat_interleave(negatives.sizes_S, dim=0)
    return [part.tolist() for part in ids_MK.split(lengths)]


@given(LENGTHS, st.sampled_from(["sequence", "position", "batch"]), st.booleans())
def test_shapes_and_range(lengths, per, popular):
    popularity = ItemPopularity(COUNTS) if popular else None
    negatives = draw(lengths, per=per, popularity=popularity)
    num_draws = {"sequence": len(lengths), "position": sum(lengths), "batch": 1}[per]
    assert negatives.ids_SK.shape == negatives.log_expected_SK.shape == (num_draws, 3)
    assert negatives.ids_SK.dtype == torch.int64
    assert negatives.sizes_S.shape == (num_draws,)
    assert negatives.sizes_S.sum() == sum(lengths)
    assert ((negatives.ids_SK >= 1) & (negatives.ids_SK <= 5)).all()
    assert negatives.log_expected_SK.isfinite().all()
    if per == "sequence":
        assert negatives.sizes_S.tolist() == lengths


@given(LENGTHS, st.sampled_from(["sequence", "position", "batch"]), st.booleans())
def test_draws_do_not_depend_on_who_else_is_in_the_batch(lengths, per, popular):
    popularity = ItemPopularity(COUNTS) if popular else None
    together = of_each_sequence(lengths, per=per, popularity=popularity)
    alone = [
        of_each_sequence([n], [user], per=per, popularity=popularity)[0]
        for user, n in enumerate(lengths)
    ]
    assert together == alone


def test_positions_count_from_the_end():
    [longer] = of_each_sequence([9], per="position")
    [shorter] = of_each_sequence([4], per="position")
    assert shorter == longer[-4:]
    assert len({tuple(ids) for ids in longer}) > 1


@pytest.mark.parametrize("per", ["sequence", "position", "batch"])
def test_another_salt_or_user_draws_others(per):
    def ids(user=0, salt=1):
        return draw([5], [user], num_items=1000, count=50, per=per, salt=salt).ids_SK.tolist()

    assert ids() == ids()
    assert ids(salt=1) != ids(salt=2)
    assert (ids(user=0) == ids(user=1)) == (per == "batch")


def frequencies(negatives, num_items):
    return torch.bincount(negatives.ids_SK.flatten(), minlength=num_items) / 2e5


def test_uniform_draws():
    negatives = draw([1] * 1000, count=200)
    expected = torch.tensor([0.0] + [0.2] * 5)
    torch.testing.assert_close(frequencies(negatives, 6), expected, atol=0.005, rtol=0)
    log_expected = torch.full((1000, 200), math.log(200 / 5))
    torch.testing.assert_close(negatives.log_expected_SK, log_expected)


def test_draws_in_proportion_to_counts():
    """Items without a count are drawn as if they had one; id 0 never is."""
    negatives = draw([1] * 1000, count=200, popularity=ItemPopularity(COUNTS))
    chance_V = torch.tensor([0, 50, 1, 30, 20, 1]) / 102
    torch.testing.assert_close(frequencies(negatives, 6), chance_V, atol=0.005, rtol=0)
    log_expected = (200 * chance_V[negatives.ids_SK]).log()
    torch.testing.assert_close(negatives.log_expected_SK, log_expected)


def test_draws_of_a_position_are_independent():
    """Neighbouring draws and neighbouring positions agree as often as chance has it."""
    ids_SK = draw([500] * 40, num_items=6, count=10, per="position").ids_SK
    for one, other in ((ids_SK[:, 1:], ids_SK[:, :-1]), (ids_SK[1:], ids_SK[:-1])):
        assert (one == other).float().mean() == pytest.approx(0.2, abs=0.01)


def test_popularity_stays_out_of_checkpoints_and_keeps_its_counts():
    counts_V = COUNTS.clone()
    assert not ItemPopularity(counts_V).state_dict()
    assert torch.equal(counts_V, COUNTS)


def test_one_item():
    assert draw([2], num_items=2, count=4).ids_SK.tolist() == [[1] * 4]
    popularity = ItemPopularity(torch.tensor([0, 0]))
    assert draw([2], num_items=2, count=4, popularity=popularity).ids_SK.tolist() == [[1] * 4]
