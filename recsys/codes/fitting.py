"""Fits a binariser on vectors of users and items, so that codes rank items as the vectors do.

U users · B users of a step · V items · D width · H places of a user's exact list · P items of a
step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.codes.binariser import Binariser, levels

BITS_PER_NUMBER = 2
"""Steps of the binariser: bits of each number of a code."""
PLACES = 100
"""Of the exact lists, first items that users are drawn with; others are what they must beat."""
HARD = 4
"""How many times as long the lists are."""
_STEPS, _USERS = 600, 256
_LR = 5e-3
_HARD_PER_USER = 3
_SPAN = 4.0
"""How far apart targets have the log probabilities of the first and the last of the best items."""
_FIRST_SCALE = 8.0  # of scores within about -1 and 1, so that a softmax of them tells items apart


def fit_binariser(users_UD: Tensor, items_CD: Tensor, *, lists_UH: Tensor, bits: int) -> Binariser:
    """A binariser whose symmetric scores order items as dot products do.

    Each step draws users, for each one of its best items and some of those just below, and compares
    how the codes and the vectors spread each user's probability over all items that were drawn.

    Args:
        users_UD: Vectors, finite.
        items_CD: Vectors of the same width, finite.
        lists_UH: Places of each user's best items, best first.
        bits: Of a code; a multiple of 8 `BITS_PER_NUMBER`.

    Returns:
        It, in evaluation mode; the same one at every call.

    Source: Gan et al. (2023), https://arxiv.org/abs/2302.08714, section 3.2. Differs from the
    paper: targets are the softmax of the vectors' scores in place of one positive, so that other
    good items among the negatives do no harm; hard negatives come from exact lists and are encoded
    anew in place of a queue of old codes.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        binariser = Binariser(
            width=users_UD.shape[1],
            bits_per_step=bits // BITS_PER_NUMBER,
            num_steps=BITS_PER_NUMBER,
        )
    log_scale = nn.Parameter(torch.tensor(_FIRST_SCALE).log())
    optimizer = torch.optim.Adam([*binariser.parameters(), log_scale], lr=_LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LR, total_steps=_STEPS)
    norm = bits // BITS_PER_NUMBER * 4 ** (BITS_PER_NUMBER - 1)
    for _ in range(_STEPS):
        rows_B = torch.randint(len(users_UD), (_USERS,), generator=generator)
        pool_P = _drawn_items(lists_UH[rows_B], generator=generator)
        users_BD, items_PD = users_UD[rows_B], items_CD[pool_P]
        sharpness_B1 = _sharpness(users_BD, items_CD, lists_UH[rows_B])
        codes_BP = levels(binariser(users_BD)) @ levels(binariser(items_PD)).T / norm
        wanted_BP = (users_BD @ items_PD.T * sharpness_B1).softmax(dim=1)
        loss = nn.functional.cross_entropy(codes_BP * log_scale.exp(), wanted_BP)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return binariser.eval()


def _sharpness(users_BD: Tensor, items_CD: Tensor, lists_BH: Tensor) -> Tensor:
    """What scores (B, 1) are multiplied with, so that their unit does not matter."""
    last = min(PLACES, lists_BH.shape[1]) - 1
    ends_B2D = items_CD[lists_BH[:, [0, last]]]
    scores_B2 = (ends_B2D @ users_BD.unsqueeze(2)).squeeze(2)
    return _SPAN / (scores_B2[:, :1] - scores_B2[:, 1:]).clamp(min=torch.finfo().tiny ** 0.5)


def _drawn_items(lists_BH: Tensor, *, generator: torch.Generator) -> Tensor:
    """Places (P,) of items: for each user one of the first of the list, and some of all of it."""
    num_users, length = lists_BH.shape
    first_B1 = torch.randint(min(PLACES, length), (num_users, 1), generator=generator)
    others_BN = torch.randint(length, (num_users, _HARD_PER_USER), generator=generator)
    return lists_BH.gather(1, torch.cat([first_B1, others_BN], dim=1)).unique()
