"""Which items stand in as negatives for those that were not chosen.

B sequences · M positions that predict, packed sequence after sequence · S draws · K negatives of a
draw · V ids, the out-of-vocabulary id 0 included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor, nn

from recsys.tables.hashing import hash_to_rows, splitmix64

_MAX_POSITIONS_LOG2 = 24


@dataclass(frozen=True)
class Negatives:
    """Draws, and which positions share each.

    Attributes:
        ids_SK: Item ids from 1, drawn with replacement.
        sizes_S: Consecutive positions that share each draw; they add up to M.
        log_expected_SK: Log of how often each of these items is expected in a draw, log(K q).
    """

    ids_SK: Tensor
    sizes_S: Tensor
    log_expected_SK: Tensor


class ItemPopularity(nn.Module):
    """A distribution over items in proportion to their counts; an item never seen counts once.

    It is a module so that it moves to the device with the model; checkpoints leave it out.

    Args:
        counts_V: Occurrences of each id in training; that of id 0, never drawn, is not read.
    """

    cumulative_V: Tensor
    log_probability_V: Tensor

    def __init__(self, counts_V: Tensor) -> None:
        super().__init__()
        counts_V = counts_V.long().clamp(min=1)
        counts_V[0] = 0
        cumulative_V = counts_V.cumsum(0)
        log_probability_V = (counts_V.double() / cumulative_V[-1]).log().float()
        self.total = int(cumulative_V[-1])
        self.register_buffer("cumulative_V", cumulative_V, persistent=False)
        self.register_buffer("log_probability_V", log_probability_V, persistent=False)


def draw_negatives(
    users_B: Tensor,
    lengths_B: Tensor,
    *,
    num_items: int,
    count: int,
    per: Literal["sequence", "position", "batch"],
    salt: int,
    popularity: ItemPopularity | None = None,
) -> Negatives:
    """Draw negatives: a function of salt, user and position, alike on any number of ranks.

    Positions are counted from the end of their sequence.

    Args:
        users_B: A number per sequence.
        lengths_B: Positions of each that predict.
        num_items: V, at least 2.
        count: K.
        per: What shares a draw; a draw for the `batch` is the same on all ranks.
        salt: Another one gives other negatives.
        popularity: The distribution; None for all items alike.
    """
    keys_S, sizes_S = _draws(users_B, lengths_B, per=per, salt=salt)
    counters_SK = keys_S.unsqueeze(1) + torch.arange(count, device=keys_S.device)
    no_salt = counters_SK.new_zeros(())
    if popularity is None:
        ids_SK = hash_to_rows(counters_SK, no_salt, num_items - 1) + 1
        log_expected = torch.full((), math.log(count / (num_items - 1)), device=keys_S.device)
        return Negatives(ids_SK, sizes_S, log_expected.expand(ids_SK.shape))
    places_SK = hash_to_rows(counters_SK, no_salt, popularity.total)
    ids_SK = torch.searchsorted(popularity.cumulative_V, places_SK, right=True)
    log_expected_SK = popularity.log_probability_V[ids_SK] + math.log(count)
    return Negatives(ids_SK, sizes_S, log_expected_SK)


def _draws(
    users_B: Tensor,
    lengths_B: Tensor,
    *,
    per: Literal["sequence", "position", "batch"],
    salt: int,
) -> tuple[Tensor, Tensor]:
    """A number for each draw, all over the 64 bits, and how many positions share the draw."""
    counter_B = (users_B << _MAX_POSITIONS_LOG2) + salt
    match per:
        case "batch":
            return splitmix64(counter_B.new_full((1,), salt)), lengths_B.sum().unsqueeze(0)
        case "sequence":
            return splitmix64(counter_B), lengths_B
        case "position":
            num_positions = int(lengths_B.sum())
            sequences = torch.arange(len(lengths_B), device=lengths_B.device)
            owner_M = sequences.repeat_interleave(lengths_B, output_size=num_positions)
            position_M = torch.arange(num_positions, device=lengths_B.device)
            from_end_M = lengths_B.cumsum(0)[owner_M] - position_M
            return splitmix64(counter_B[owner_M] + from_end_M), torch.ones_like(position_M)
        case _:
            assert_never(per)
