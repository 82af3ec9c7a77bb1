"""Hashing all readers of a table in a handful of vector operations, however many they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def concatenate(ids: Mapping[str, Tensor], keys: Sequence[str]) -> tuple[Tensor, list[int]]:
    """The ids of all keys end to end, and how many each has."""
    parts = [ids[key] for key in keys]
    return torch.cat(parts), [part.numel() for part in parts]


def spread(plan_RC: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
    """Columns of a per-key plan, each number repeated for every id of its key.

    Args:
        plan_RC: A row of constants per key.
        counts: Ids per key.
    """
    if len(set(counts)) == 1:  # one id per example everywhere: the common case, and the fastest
        spread_RBC = plan_RC[:, None, :].expand(-1, counts[0], -1)
        return tuple(spread_RBC.reshape(-1, plan_RC.shape[1]).unbind(1))
    repeats = torch.tensor(counts, device=plan_RC.device)
    return tuple(plan_RC.repeat_interleave(repeats, dim=0, output_size=sum(counts)).unbind(1))
