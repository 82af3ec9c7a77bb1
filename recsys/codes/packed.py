"""Bits in bytes, eight to each, and what two codes score.

N codes · T steps · M bits of a step · Y bytes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pack(bits_NTM: Tensor) -> Tensor:
    """Bytes (N, Y); of eight bits the first is the highest.

    Args:
        bits_NTM: Above 0, or not; M is a multiple of 8.
    """
    is_one = (bits_NTM > 0).flatten(1).numpy()
    return torch.from_numpy(np.packbits(is_one, axis=1))


def unpacked_levels(codes_NY: Tensor, *, num_steps: int) -> Tensor:
    """The values (N, M) that packed codes stand for, whole numbers as floats.

    Args:
        codes_NY: As `pack` gives them.
        num_steps: T.
    """
    bits = torch.from_numpy(np.unpackbits(codes_NY.numpy(), axis=1))
    bits_NTM = bits.unflatten(1, (num_steps, -1))
    whole_NM = bits_NTM[:, 0]
    for step in range(1, num_steps):
        whole_NM = (whole_NM << 1) | bits_NTM[:, step]  # at most 2^T - 1, of few steps
    return whole_NM.float() * 2 - (2**num_steps - 1)


def symmetric_scores(users_BY: Tensor, items_CY: Tensor, *, num_steps: int) -> Tensor:
    """Dot products (B, C) of what the codes stand for, exact.

    It is sum over steps s, t of 2^(s+t) (M - 2 popcount(user_s xor item_t)), made as one product of
    matrices: all its sums are whole numbers that 32 bits hold exactly.

    Args:
        users_BY: Packed codes.
        items_CY: The same.
        num_steps: T.
    """
    users_BM = unpacked_levels(users_BY, num_steps=num_steps)
    return users_BM @ unpacked_levels(items_CY, num_steps=num_steps).T
