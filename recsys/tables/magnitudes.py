"""The smallest numbers of a table by magnitude, whatever parts the ranks hold of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

_LOW_BITS = 16
_NUM_BINS = 1 << _LOW_BITS
_NUMBERS_PER_CHUNK = 1 << 22


class Magnitudes:
    """Numbers of a table in order of their magnitudes; every rank makes one and calls it alike.

    The order of magnitudes is that of the bits of floats without their signs, so that two
    histograms of 16 bits find any of them exactly: the same on any number of ranks, and as fast
    for any share.

    Args:
        parts: This rank's numbers, float32, all of a replicated table or the shards of another;
            they may be none.
        device: Of this rank.
        num_numbers: Of the whole table.
    """

    def __init__(self, parts: Sequence[Tensor], *, device: torch.device, num_numbers: int) -> None:
        self.parts, self.device = parts, device
        held = torch.tensor(sum(part.numel() for part in parts), device=device)
        # Of a replicated table each rank counts all numbers.
        self.num_copies = int(over_ranks(held)) // num_numbers

    @torch.no_grad()
    def zero_smallest(self, num_smallest: int) -> None:
        """Set the smallest numbers of the table to zero; those that equal the last of them too.

        Args:
            num_smallest: How many, over all ranks.
        """
        if num_smallest <= 0:
            return
        largest = self._nth_bits(num_smallest)
        for chunk in self._chunks():
            chunk.masked_fill_(_bits(chunk) <= largest, 0.0)

    def _nth_bits(self, nth: int) -> int:
        """Bits of the nth smallest magnitude."""
        nth *= self.num_copies
        high, num_below = self._bin_of(nth, (b >> _LOW_BITS for b in self._all_bits()))
        of_bin = (b[b >> _LOW_BITS == high] & (_NUM_BINS - 1) for b in self._all_bits())
        low, _ = self._bin_of(nth - num_below, of_bin)
        return high << _LOW_BITS | low

    def _bin_of(self, nth: int, bins: Iterable[Tensor]) -> tuple[int, int]:
        """The bin of the nth smallest, and how many lie in smaller ones."""
        counts = torch.zeros(_NUM_BINS, dtype=torch.int64, device=self.device)
        for each in bins:
            counts += torch.bincount(each, minlength=_NUM_BINS)
        totals = over_ranks(counts).cumsum(0)
        found = int(torch.searchsorted(totals, nth))
        return found, int(totals[found - 1]) if found else 0

    def _all_bits(self) -> Iterator[Tensor]:
        return (_bits(chunk).flatten() for chunk in self._chunks())

    def _chunks(self) -> Iterator[Tensor]:
        """Rows at a time, so that no copy of a large table lies in memory."""
        for part in self.parts:
            yield from part.split(max(1, _NUMBERS_PER_CHUNK // part.shape[1]))


def _bits(values: Tensor) -> Tensor:
    """Floats without their signs as integers, which have the same order."""
    return values.abs().view(torch.int32)


def over_ranks(counts: Tensor) -> Tensor:
    """Sums over all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(counts)
    return counts
