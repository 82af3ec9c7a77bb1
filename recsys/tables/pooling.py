"""Several vectors of one example become one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def pool(values_LD: Tensor, lengths_B: Tensor, *, how: Literal["sum", "mean"]) -> Tensor:
    """Sum or mean of each example's vectors, (B, D); zero where it has none.

    Args:
        values_LD: Vectors of all examples, packed.
        lengths_B: How many each example has.
        how: Mean divides by the number of vectors.
    """
    num_examples = lengths_B.shape[0]
    examples = torch.arange(num_examples, device=values_LD.device)
    owner_L = examples.repeat_interleave(lengths_B, output_size=values_LD.shape[0])
    sums_BD = values_LD.new_zeros(num_examples, values_LD.shape[1])
    sums_BD = sums_BD.index_add(0, owner_L, values_LD)
    if how == "sum":
        return sums_BD
    return sums_BD / lengths_B.clamp(min=1).unsqueeze(1).to(values_LD.dtype)
