"""Batch normalisation that takes batches of any size."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import batch_norm
from typing_extensions import override


class BatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d`, which by itself refuses to train on a batch of one row.

    The last of an epoch can be one. It has no variance, so it is normalised by the running values,
    which stay as they are.
    """

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Normalise inputs_BC over B."""
        if self.training and len(input) == 1:
            return batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)
