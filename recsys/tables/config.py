"""How tables are stored and updated: the run's choice, not the feature file's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

from features.errors import RunConfigError

Sharding = Literal["table_wise", "row_wise", "column_wise"]
RowDType = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class FusedOptimizer:
    """Optimiser of the sharded tables; it runs inside the backward pass, on looked-up rows only."""

    name: Literal["adagrad", "rowwise_adagrad", "sgd", "adam"] = "adagrad"
    """Update rule; adam needs a GPU, since fbgemm has no CPU kernel for it."""
    lr: float = 0.05
    """Learning rate."""
    eps: float = 1e-8
    """Added to the denominator."""


@dataclass(frozen=True, kw_only=True)
class TablesConfig:
    """Where each table lives."""

    dense_max_bytes: int = 8_000_000
    """Tables up to this size are replicated on every rank and trained by the dense optimiser."""
    weight_decay: float | None = None
    """Of replicated tables, for the dense optimiser. None: it treats them as it does the layers."""
    optimizer: FusedOptimizer = field(default_factory=FusedOptimizer)
    """Optimiser of the larger ones, which are sharded."""
    row_dtype: RowDType = "fp32"
    """What the numbers of sharded rows are stored in; bf16 needs a GPU. Vectors are read, gradients
    summed and the optimiser's state kept in fp32 whatever it is."""
    sharding: Mapping[str, Sharding] = field(default_factory=dict)
    """How to cut a sharded table, by name; the others follow the planner."""
    host_memory: tuple[str, ...] = ()
    """Sharded tables whose rows lie in the memory of the machine; GPUs keep those in use."""
    seed: int = 0
    """Fixes the first value of every row, whatever the sharding and the number of ranks."""

    @property
    def bytes_per_row_number(self) -> int:
        """Of a number of a sharded row, its optimiser's state apart."""
        return 4 if self.row_dtype == "fp32" else 2

    def __post_init__(self) -> None:
        """Check.

        Raises:
            RunConfigError: with all mistakes.
        """
        numbers = {
            "dense_max_bytes": (self.dense_max_bytes, self.dense_max_bytes >= 0),
            "optimizer.lr": (self.optimizer.lr, self.optimizer.lr > 0),
            "optimizer.eps": (self.optimizer.eps, self.optimizer.eps > 0),
        }
        mistakes = [
            f"tables.{name}: is too small, got {value}; allowed numbers above 0"
            for name, (value, is_allowed) in numbers.items()
            if not is_allowed
        ]
        decay = self.weight_decay
        if decay is not None and not (isfinite(decay) and decay >= 0):
            mistakes.append(
                f"tables.weight_decay: shrinks numbers, got {decay}; allowed 0 and more, or null"
            )
        if mistakes:
            raise RunConfigError(mistakes)
