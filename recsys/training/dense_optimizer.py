"""The optimiser of all that the fused kernels do not train."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from features.errors import RunConfigError
from recsys.tables.embedder import Embedder
from recsys.tables.scheme import Scheme

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


def dense_optimizer(
    factory: OptimizerFactory, *, model: nn.Module, embedder: Embedder
) -> Optimizer:
    """Make the optimiser of a model's layers and replicated tables.

    Tables are a group of parameters of their own where they have another weight decay than layers;
    so are thresholds, which have none but what their schemes add to the loss.

    Args:
        factory: Makes the optimiser.
        model: All that is trained, its tables among it.
        embedder: The tables of the model.

    Raises:
        RunConfigError: tables have a weight decay, and the optimiser knows none.
    """
    others = [*embedder.sharded_parameters(), *embedder.updated_by_schemes()]
    left_out = {id(p) for p in others}
    layers = {id(p): p for p in model.parameters() if id(p) not in left_out}
    schemes = cast(Iterable[Scheme], embedder.schemes.values())
    of_thresholds = [p for scheme in schemes for p in scheme.thresholds()]
    thresholds = [layers.pop(id(p)) for p in of_thresholds if id(p) in layers]
    groups: list[dict[str, Any]] = []
    weight_decay = embedder.config.weight_decay
    if weight_decay is not None:
        tables = [layers.pop(id(p)) for p in embedder.parameters() if id(p) in layers]
        groups.append({"params": tables, "weight_decay": weight_decay})
    if thresholds:
        groups.append({"params": thresholds, "weight_decay": 0.0})
    optimizer = factory([{"params": list(layers.values())}, *groups])
    if weight_decay is not None and "weight_decay" not in optimizer.defaults:
        raise RunConfigError(
            f"tables.weight_decay: the optimiser has none, got {weight_decay} for "
            f"{type(optimizer).__name__}; allowed with torch.optim.Adam, AdamW, SGD, Adagrad and "
            f"others that take weight_decay; choose one, or leave tables.weight_decay out"
        )
    return optimizer


def state_keys(factory: OptimizerFactory) -> set[str]:
    """What an optimiser keeps beside each parameter, found by a step that moves nothing.

    Args:
        factory: Makes the optimiser.
    """
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = factory([parameter])
    parameter.grad = torch.zeros(1)
    optimizer.step()
    return set(optimizer.state[parameter])
