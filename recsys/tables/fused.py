"""Optimisers that update sharded tables inside the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim import RowWiseAdagrad

from features.errors import RunConfigError
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.embedder import Embedder

_OPTIMIZERS = {
    "adagrad": torch.optim.Adagrad,
    "rowwise_adagrad": RowWiseAdagrad,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
}
_STATE_BYTES = 4


def attach_optimizer(embedder: Embedder, *, device: str) -> None:
    """Give the collections of an embedder their optimiser, before they are planned and sharded.

    Raises:
        RunConfigError: it does not exist on this kind of device.
    """
    config = embedder.config
    check_optimizer(config, device=device)
    for collection in _collections(embedder):
        apply_optimizer_in_backward(
            _OPTIMIZERS[config.optimizer.name],
            list(collection.parameters()),
            # A fresh dict each time: it is changed by the callee.
            _arguments(config.optimizer),
        )


def num_updates(module: nn.Module) -> int:
    """Updates that the kernels of a sharded module have counted, by which Adam corrects its means.

    Args:
        module: Sharded.
    """
    return max((int(counter) for counter in _counters(module)), default=0)


def count_updates_from(module: nn.Module, number: int) -> None:
    """Let the kernels of a sharded module, before its first step, count on from a number."""
    for counter in _counters(module):
        counter.fill_(number)


def lookups(module: nn.Module) -> Iterator[nn.Module]:
    """What looks up and updates the rows of this rank; no parts of the module in torch's sense.

    Args:
        module: Sharded.
    """
    for part in module.modules():
        if isinstance(part, ShardedEmbeddingBagCollection | ShardedEmbeddingCollection):
            yield from cast("list[nn.Module]", part._lookups)


def _counters(module: nn.Module) -> Iterator[Tensor]:
    for lookup in lookups(module):
        for kernel in lookup.modules():
            if isinstance(kernel, SplitTableBatchedEmbeddingBagsCodegen):
                yield cast(Tensor, kernel.iter)


def check_optimizer(config: TablesConfig, *, device: str) -> None:
    """Refuse what fused kernels cannot do on a device, or would change by the sharding.

    Args:
        config: Names optimiser and rows.
        device: `cpu` or `cuda`.

    Raises:
        RunConfigError: with all mistakes.
    """
    mistakes = []
    if config.optimizer.name == "adam" and device == "cpu":
        mistakes.append(
            "tables.optimizer.name: fbgemm has no Adam on a CPU, got 'adam'; allowed adagrad, "
            "rowwise_adagrad, sgd; choose one, or raise tables.dense_max_bytes so that the dense "
            "optimiser trains the tables"
        )
    if config.row_dtype == "bf16" and device == "cpu":
        mistakes.append(
            "tables.row_dtype: fbgemm has no bf16 rows on a CPU, got 'bf16'; allowed fp32, fp16; "
            "choose one"
        )
    columns = [name for name, how in config.sharding.items() if how == "column_wise"]
    if columns and config.optimizer.name == "rowwise_adagrad":
        mistakes.append(
            f"tables.sharding: column_wise changes row-wise Adagrad (a statistic per piece), got "
            f"column_wise for {', '.join(columns)}; allowed with adagrad, sgd; change one of them"
        )
    if config.host_memory and device == "cpu":
        mistakes.append(
            f"tables.host_memory: moves rows from a GPU to the memory of its machine, got "
            f"{', '.join(config.host_memory)} in a training on a CPU, where all tables lie there; "
            f"allowed on GPUs; leave it out"
        )
    if mistakes:
        raise RunConfigError(mistakes)


def state_bytes(optimizer: FusedOptimizer, *, num_rows: int, dim: int) -> int:
    """What the optimiser keeps of a piece of a table beside its weights.

    Args:
        optimizer: Of the table.
        num_rows: Of the piece.
        dim: Of the piece.
    """
    numbers_per_row = {"sgd": 0, "rowwise_adagrad": 1, "adagrad": dim, "adam": 2 * dim}
    return num_rows * numbers_per_row[optimizer.name] * _STATE_BYTES


def _arguments(optimizer: FusedOptimizer) -> dict[str, Any]:
    if optimizer.name == "sgd":
        return {"lr": optimizer.lr}
    return {"lr": optimizer.lr, "eps": optimizer.eps}


def _collections(embedder: Embedder) -> Iterator[nn.Module]:
    for module in embedder.modules():
        if isinstance(module, EmbeddingBagCollection | EmbeddingCollection):
            yield module
