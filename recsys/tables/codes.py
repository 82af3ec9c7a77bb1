"""Codes of ids, packed bit by bit: as many bits as choices ask for, fewer for rare ids.

Shape legend: L ids, P parts, each with a code of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_CHOICES = 1 << 8
"""Codes of more than 8 bits would lie in more than two bytes."""


@dataclass(frozen=True)
class CodeLayout:
    """Where the codes of the ids 0 ... num_ids - 1 lie in an array of bytes.

    Attributes:
        num_parts: P, codes of an id.
        num_ids: Of a feature.
        num_frequent: The first of them, which have all choices.
        num_choices: Codes of frequent ids are 0 ... num_choices - 1.
        num_rare_choices: Those of the others are 0 ... num_rare_choices - 1.
    """

    num_parts: int
    num_ids: int
    num_frequent: int
    num_choices: int
    num_rare_choices: int

    @property
    def num_bytes(self) -> int:
        """Size of the array."""
        return -(-self._num_bits // 8)

    def pack(self, codes_NP: Tensor) -> Tensor:
        """The array of bytes.

        Args:
            codes_NP: Of all ids.
        """
        place_NP, bits_N1 = self._places(torch.arange(self.num_ids, device=codes_NP.device))
        bits = torch.zeros(8 * self.num_bytes, dtype=torch.uint8, device=codes_NP.device)
        for bit in range(_bits(self.num_choices)):
            has_bit_NP = (bit < bits_N1).expand_as(place_NP)
            bits[place_NP[has_bit_NP] + bit] = (codes_NP[has_bit_NP] >> bit & 1).to(torch.uint8)
        weights_8 = 1 << torch.arange(8, device=codes_NP.device)
        return (bits.view(-1, 8) * weights_8).sum(1).to(torch.uint8)

    def read(self, packed: Tensor, ids_L: Tensor) -> Tensor:
        """Codes (L, P) of some ids.

        Args:
            packed: The array.
            ids_L: Any of them.
        """
        place_LP, bits_L1 = self._places(ids_L)
        byte_LP = place_LP >> 3
        low_LP = packed[byte_LP].long()
        # Where there is no next byte, none of its bits are wanted.
        high_LP = packed[(byte_LP + 1).clamp(max=self.num_bytes - 1)].long()
        return (low_LP | high_LP << 8) >> (place_LP & 7) & ((1 << bits_L1) - 1)

    def is_rare(self, ids_L: Tensor) -> Tensor:
        """Whether ids have the fewer choices."""
        return ids_L >= self.num_frequent

    def _places(self, ids_L: Tensor) -> tuple[Tensor, Tensor]:
        """First bit (L, P) of each code, and bits (L, 1) of each id's codes."""
        bits, rare_bits = _bits(self.num_choices), _bits(self.num_rare_choices)
        ids_L1 = ids_L.unsqueeze(1)
        bits_L1 = torch.where(self.is_rare(ids_L1), rare_bits, bits)
        before_L1 = self.num_frequent * (bits - rare_bits) * self.is_rare(ids_L1)
        first_L1 = (before_L1 + ids_L1 * bits_L1) * self.num_parts
        return first_L1 + torch.arange(self.num_parts, device=ids_L.device) * bits_L1, bits_L1

    @property
    def _num_bits(self) -> int:
        num_rare = self.num_ids - self.num_frequent
        frequent_bits = self.num_frequent * _bits(self.num_choices)
        return self.num_parts * (frequent_bits + num_rare * _bits(self.num_rare_choices))


def _bits(num_choices: int) -> int:
    """Bits of the codes 0 ... num_choices - 1; a code that is always 0 has one too."""
    return max(1, (num_choices - 1).bit_length())
