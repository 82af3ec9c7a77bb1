"""First values of the layers of sequence models."""

from __future__ import annotations

from torch import nn

STD = 0.02


def initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02), as BERT's and HSTU's code and all their heirs have it; biases zero.

    Args:
        module: Of which the layer itself is filled, so that `apply` reaches those inside.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
