"""Which items of a sequence the cloze objective hides."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.nn.tokens import is_last
from recsys.tables.hashing import uniform_pm1

_MAX_POSITIONS_LOG2 = 24


def cloze_masks(
    users_B: Tensor, lengths_B: Tensor, *, share: float, last_only_share: float, salt: int
) -> Tensor:
    """Masked tokens (L): a function of salt, user and position, alike on any number of ranks.

    Every sequence has a masked token: its last one where no other was drawn.

    Args:
        users_B: A number per sequence.
        lengths_B: Tokens of each.
        share: Chance of a token.
        last_only_share: Chance of a sequence to have its last token masked and no other.
        salt: Another one gives other masks.
    """
    owner_L, chance_L = token_chances(users_B, lengths_B, salt=salt)
    last_only_B = _chance((users_B << _MAX_POSITIONS_LOG2) + salt) < last_only_share
    masked_L = (chance_L < share) & ~last_only_B[owner_L]
    num_masked_B = torch.zeros_like(lengths_B).index_add(0, owner_L, masked_L.to(lengths_B.dtype))
    return masked_L | (is_last(lengths_B) & (num_masked_B == 0)[owner_L])


def token_chances(users_B: Tensor, lengths_B: Tensor, *, salt: int) -> tuple[Tensor, Tensor]:
    """The sequence of each token (L), and a number from 0 to 1 drawn for it.

    Args:
        users_B: A number per sequence.
        lengths_B: Tokens of each.
        salt: Another one gives other numbers.
    """
    num_tokens = int(lengths_B.sum())
    sequences = torch.arange(len(lengths_B), device=lengths_B.device)
    owner_L = sequences.repeat_interleave(lengths_B, output_size=num_tokens)
    token_L = torch.arange(num_tokens, device=lengths_B.device)
    from_end_L = lengths_B.cumsum(0)[owner_L] - token_L
    return owner_L, _chance((users_B << _MAX_POSITIONS_LOG2)[owner_L] + salt + from_end_L)


def _chance(counters: Tensor) -> Tensor:
    return (uniform_pm1(counters) + 1) / 2
