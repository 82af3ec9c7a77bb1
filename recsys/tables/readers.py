"""Hashing all readers of a table in a handful of vector operations, however many they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.tables.blocks import Block
from recsys.tables.hashing import hash_to_rows


@dataclass(frozen=True)
class HashedRead:
    """One hash of a reader's ids.

    Attributes:
        name: Unique among those of a table.
        reader: Key of the reader.
        salt: Reads with different salts are independent.
        block: Where the hash may fall.
    """

    name: str
    reader: str
    salt: int
    block: Block


class HashedReads(nn.Module):
    """Hashes the ids of all reads of a table at once.

    Args:
        reads: At least one.
    """

    plan_R3: Tensor

    def __init__(self, reads: Sequence[HashedRead]) -> None:
        super().__init__()
        self.reads = tuple(reads)
        plan = [(read.salt, read.block.first, read.block.size) for read in reads]
        plan_R3 = torch.tensor(plan, dtype=torch.int64)
        self.register_buffer("plan_R3", plan_R3, persistent=False)

    def forward(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """First of the block + hash(id; salt) mod its size, by read.

        Args:
            ids: By reader.
        """
        values, plan, counts = self.spread(ids)
        salts, first, size = plan
        rows = first + hash_to_rows(values, salts, size)
        return dict(zip([read.name for read in self.reads], rows.split(counts), strict=True))

    def spread(self, ids: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...], list[int]]:
        """The ids of all reads end to end; salt, first place and size of each; how many each has.

        Args:
            ids: By reader.
        """
        values, counts = concatenate(ids, [read.reader for read in self.reads])
        return values, spread(self.plan_R3, counts), counts


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
