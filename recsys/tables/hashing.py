"""Integer hashing on the device, the same on every machine: SplitMix64 over salted ids."""

from __future__ import annotations

import torch
import xxhash
from torch import Tensor

# Constants of SplitMix64's finaliser (Steele et al., Fast splittable pseudorandom number
# generators, 2014), as signed 64-bit numbers, since torch has no unsigned arithmetic.
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def salt(*parts: str | int) -> int:
    """A signed 64-bit number that is fixed by the parts and unlike that of any other parts."""
    digest = xxhash.xxh64("\x1f".join(str(part) for part in parts).encode()).intdigest()
    return digest - 2**64 if digest >= 2**63 else digest


def splitmix64(x: Tensor) -> Tensor:
    """Mix the bits of int64 numbers; wraps around as unsigned arithmetic would.

    Args:
        x: Numbers of any shape, int64.
    """
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def hash_to_rows(ids: Tensor, salts: Tensor, num_rows: int | Tensor) -> Tensor:
    """Rows 0 ... num_rows - 1 of the salted ids.

    Args:
        ids: Non-negative int64 numbers.
        salts: Broadcast against `ids`; ids under different salts land independently.
        num_rows: Broadcast against `ids`.
    """
    return (splitmix64(ids + salts) & 0x7FFFFFFFFFFFFFFF) % num_rows


def uniform_pm1(counters: Tensor) -> Tensor:
    """Float32 numbers in [-1, 1), a function of each counter alone."""
    # 24 bits fill a float32's mantissa.
    bits = _shift_right(splitmix64(counters), 40)
    return bits.to(torch.float32) * (2.0 / 2**24) - 1.0


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift in zeros, where `>>` copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
