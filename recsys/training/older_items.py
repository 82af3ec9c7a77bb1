"""What keeps a sequence model's items near those of an older bundle while it is trained.

V items, the out-of-vocabulary id 0 included · N items of a step · D width.
"""

from __future__ import annotations

from math import inf

import polars as pl
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.bundle_items import BundleItems, common_items

OPTION = "model.compatible_with"


def weight_mistakes(weight: float) -> list[str]:
    """What is wrong with a weight of the pull, if anything."""
    if 0 < weight < inf:
        return []
    return [
        f"model.compatibility_weight: is no weight, got {weight}; allowed above 0; leave {OPTION} "
        f"out for none"
    ]


class OlderItems(nn.Module):
    """The mean of 1 - cosine of items' vectors with those of the older bundle.

    Lengths are left free, and so are items that the older bundle does not know.

    Args:
        older: Items of that bundle.
        names: Raw ids of the model's items, from id 1 on.
        width: Of the model's vectors.
        has_bias: Whether the model adds a bias to the score of each item.
        weight: What the mean is multiplied with.

    Raises:
        RunConfigError: vectors of the two cannot be compared, or they have no item in common.

    Source: Zhou et al., BT^2: Backward-compatible Training with Basis Transformation (2023),
    https://arxiv.org/abs/2211.03989, whose code pulls new features to old ones so, with weight 5.
    Differs from the paper: what is pulled are the rows of items, of which there is one for each;
    no dimensions are added.
    """

    vectors_VD: Tensor
    is_known_V: Tensor

    def __init__(
        self, older: BundleItems, names: pl.Series, *, width: int, has_bias: bool, weight: float
    ) -> None:
        super().__init__()
        ids_V = common_items(older, names, width=width, has_bias=has_bias, option=OPTION)
        self.weight = weight
        # No part of a checkpoint: what is exported or goes on needs the model alone.
        self.register_buffer("vectors_VD", older.vectors_VD[ids_V], persistent=False)
        self.register_buffer("is_known_V", ids_V > 0, persistent=False)

    def forward(self, items_ND: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
        """Give the weighted mean, and the number of items that it is of.

        Args:
            items_ND: What items are scored by.
            ids_N: Their ids; repeats count as often.
        """
        is_known_N = self.is_known_V[ids_N]
        cosines_N = F.cosine_similarity(items_ND.float(), self.vectors_VD[ids_N])
        count = is_known_N.sum()
        apart_N = (1 - cosines_N).where(is_known_N, 0.0)
        return self.weight * apart_N.sum() / count.clamp(min=1), count
