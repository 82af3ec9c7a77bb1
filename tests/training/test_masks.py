import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.training.masks import cloze_masks, token_chances

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=8)


def masks(lengths, users=None, *, share=0.2, last_only_share=0.0, salt=1):
    users_B = torch.arange(len(lengths)) if users is None else torch.tensor(users)
    lengths_B = torch.tensor(lengths)
    masked_L = cloze_masks(
        users_B, lengths_B, share=share, last_only_share=last_only_share, salt=salt
    )
    return [part.tolist() for part in masked_L.split(lengths)]


@given(LENGTHS, st.sampled_from([0.0, 0.2, 1.0]))
def test_every_sequence_has_a_mask_and_the_last_stands_in(lengths, share):
    for length, masked in zip(lengths, masks(lengths, share=share), strict=True):
        assert len(masked) == length
        if length:
            assert any(masked)
            if share == 0:
                assert masked == [False] * (length - 1) + [True]
            if share == 1:
                assert all(masked)


@given(LENGTHS)
def test_masks_do_not_depend_on_who_else_is_in_the_batch(lengths):
    together = masks(lengths)
    alone = [masks([n], [user])[0] for user, n in enumerate(lengths)]
    assert together == alone


def test_shares_are_as_asked():
    drawn = torch.tensor(masks([100] * 500, share=0.2))
    assert drawn.float().mean() == pytest.approx(0.2, abs=0.01)
    drawn = torch.tensor(masks([100] * 2000, share=0.5, last_only_share=0.1))
    only_last = drawn[:, -1] & (drawn.sum(1) == 1)
    assert only_last.float().mean() == pytest.approx(0.1, abs=0.02)


def test_another_step_draws_other_masks():
    assert masks([50], salt=1) != masks([50], salt=2)


@given(LENGTHS, st.integers(0, 9))
def test_chances_follow_from_salt_user_and_place_from_the_end(lengths, salt):
    def chances(lengths, users):
        found = token_chances(torch.tensor(users), torch.tensor(lengths), salt=salt)
        return found[0].tolist(), [part.tolist() for part in found[1].split(lengths)]

    users = list(range(7, 7 + len(lengths)))
    owners, together = chances(lengths, users)
    assert owners == [b for b, length in enumerate(lengths) for _ in range(length)]
    for user, length, found in zip(users, lengths, together, strict=True):
        [longer] = chances([length + 3], [user])[1]
        assert found == longer[3:]
        assert all(0 <= chance < 1 for chance in found)
