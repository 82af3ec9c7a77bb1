"""Integers that say where ids go: stored beside what is trained, in no more bits than they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def index_dtype(size: int) -> torch.dtype:
    """The smallest type of integers 0 ... size - 1 that torch can look rows up by."""
    if size <= 1 << 8:
        return torch.uint8
    return torch.int16 if size <= 1 << 15 else torch.int32


def smallest_unsigned(size: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type of integers 0 ... size - 1, to store them."""
    if size <= 1 << 8:
        return np.uint8
    return np.uint16 if size <= 1 << 16 else np.uint32
