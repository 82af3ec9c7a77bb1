"""What keeps a sequence model's items near those of an older bundle while it is trained.

V items, the out-of-vocabulary id 0 included · N items of a step · D width of the
older bundle, which may be that of the first numbers of wider vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

import polars as pl
import torch.nn.functional as F
from torch import Tensor, nn

from features.errors import RunConfigError
from recsys.bundle_items import BundleItems, common_items

OPTION = "model.compatible_with.bundle"

How = Literal["pull", "keep"]


@dataclass(frozen=True, kw_only=True)
class CompatibleWith:
    """The older bundle whose index is to serve the users of a new model."""

    bundle: str
    """Its directory."""
    how: How = "pull"
    """pull: items of the same raw ids are drawn to it by the loss; keep: they keep its vectors."""
    weight: float = 5.0
    """Of the pull: what the mean of 1 - cosine is multiplied with."""

    def __post_init__(self) -> None:
        """Check.

        Raises:
            RunConfigError: with all mistakes.
        """
        mistakes = []
        if self.how not in get_args(How):
            mistakes.append(
                f"model.compatible_with.how: is unknown, got {self.how!r}; allowed pull, keep"
            )
        if not 0 < self.weight < inf:
            mistakes.append(
                f"model.compatible_with.weight: is no weight, got {self.weight}; allowed above 0; "
                f"leave model.compatible_with out for none"
            )
        if mistakes:
            raise RunConfigError(mistakes)


class PulledItems(nn.Module):
    """The mean of 1 - cosine of items' vectors with those of the older bundle.

    Lengths are left free, and so are items that the older bundle does not know, and numbers beyond
    its width.

    Args:
        older: Items of that bundle.
        names: Raw ids of the model's items, from id 1 on.
        widths: At which the first numbers of the model's vectors serve alone.
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
        self,
        older: BundleItems,
        names: pl.Series,
        *,
        widths: Sequence[int],
        has_bias: bool,
        weight: float,
    ) -> None:
        super().__init__()
        ids_V = common_items(older, names, widths=widths, has_bias=has_bias, option=OPTION)
        self.weight = weight
        # No part of a checkpoint: what is exported or goes on needs the model alone.
        self.register_buffer("vectors_VD", older.vectors_VD[ids_V], persistent=False)
        self.register_buffer("is_known_V", ids_V > 0, persistent=False)

    def forward(self, items_ND: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
        """Give the weighted mean, and the number of items that it is of.

        Args:
            items_ND: What items are scored by; may be wider.
            ids_N: Their ids; repeats count as often.
        """
        is_known_N = self.is_known_V[ids_N]
        items_ND = items_ND[:, : self.vectors_VD.shape[1]].float()
        cosines_N = F.cosine_similarity(items_ND, self.vectors_VD[ids_N])
        count = is_known_N.sum()
        apart_N = (1 - cosines_N).where(is_known_N, 0.0)
        return self.weight * apart_N.sum() / count.clamp(min=1), count
