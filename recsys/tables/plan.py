"""Cutting the collections over the ranks: sharding plan, fused optimisers, first values."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DataParallelWrapper, DefaultDataParallelWrapper
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ModuleSharder, ShardingEnv, ShardingPlan, ShardingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim import RowWiseAdagrad

from features.errors import RunConfigError
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.initial import fill_initial

_OPTIMIZERS = {
    "adagrad": torch.optim.Adagrad,
    "rowwise_adagrad": RowWiseAdagrad,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
}


class _BagSharder(EmbeddingBagCollectionSharder):
    """TorchRec's own, which offers no row-wise sharding on a CPU though its kernels do it."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """All that the kernels can do."""
        offered = super().sharding_types(compute_device_type)
        return [*dict.fromkeys([*offered, ShardingType.ROW_WISE.value])]


class _DataParallel(DataParallelWrapper):
    """DDP for what is not sharded; nothing on a single rank, where it would only copy gradients."""

    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        """Wrap in place."""
        if env.world_size > 1:
            # static_graph: training steps of one task may differ in what they touch.
            DefaultDataParallelWrapper(static_graph=False).wrap(dmp, env, device)


def shard(module: nn.Module, *, device: torch.device) -> DistributedModelParallel:
    """Shard every embedder inside a module over the default process group, fill in first values.

    The same on one rank as on many. The module itself is changed.

    Args:
        module: Holds embedders; the rest of it is replicated.
        device: Of this rank.

    Raises:
        RunConfigError: the fused optimiser does not exist on this kind of device.
    """
    embedders = {n: m for n, m in module.named_modules() if isinstance(m, Embedder)}
    for embedder in embedders.values():
        _attach_optimizer(embedder, device=device)
    with _quiet_planner():
        plan = _plan(module, embedders, device=device)
        sharded = DistributedModelParallel(
            module,
            device=device,
            plan=plan,
            sharders=_sharders(),
            init_data_parallel=False,
            data_parallel_wrapper=_DataParallel(),
        )
        sharded.to(device)
        sharded.init_data_parallel()
    for embedder in embedders.values():
        _fill_first_values(embedder)
    return sharded


def _sharders() -> list[ModuleSharder[Any]]:
    return [_BagSharder(), EmbeddingCollectionSharder()]


def _plan(
    module: nn.Module, embedders: dict[str, Embedder], *, device: torch.device
) -> ShardingPlan:
    constraints = {}
    for embedder in embedders.values():
        for table in embedder.sharded_tables():
            chosen = embedder.config.sharding.get(table.name)
            constraints[table.name] = ParameterConstraints(
                sharding_types=[chosen] if chosen else _default_types(device),
                compute_kernels=[EmbeddingComputeKernel.FUSED.value],
            )
    if not constraints:
        return ShardingPlan(plan={})
    world_size = dist.get_world_size()
    planner = EmbeddingShardingPlanner(
        topology=Topology(
            world_size=world_size,
            local_world_size=min(world_size, max(1, torch.cuda.device_count()))
            if device.type == "cuda"
            else world_size,
            compute_device=device.type,
        ),
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(percentage=0.15),
    )
    return planner.collective_plan(module, _sharders(), dist.GroupMember.WORLD)


def _default_types(device: torch.device) -> list[str]:
    # Column-wise is left out: with row-wise Adagrad it is another algorithm, one statistic a shard.
    # Data-parallel is left out: such a table would leave the fused optimiser without a word.
    types = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
    if device.type == "cuda":
        types.append(ShardingType.TABLE_ROW_WISE.value)
    return types


def _attach_optimizer(embedder: Embedder, *, device: torch.device) -> None:
    config = embedder.config
    check_optimizer(config, device=device)
    for collection in _collections(embedder):
        apply_optimizer_in_backward(
            _OPTIMIZERS[config.optimizer.name],
            list(collection.parameters()),
            # A fresh dict each time: it is changed by the callee.
            _optimizer_arguments(config.optimizer),
        )


def _optimizer_arguments(optimizer: FusedOptimizer) -> dict[str, Any]:
    if optimizer.name == "sgd":
        return {"lr": optimizer.lr}
    return {"lr": optimizer.lr, "eps": optimizer.eps}


def check_optimizer(config: TablesConfig, *, device: torch.device) -> None:
    """Refuse a fused optimiser that does not exist on a device, or would change by the sharding.

    Raises:
        RunConfigError: with all mistakes.
    """
    mistakes = []
    if config.optimizer.name == "adam" and device.type == "cpu":
        mistakes.append(
            "tables.optimizer.name: fbgemm has no Adam on a CPU, got 'adam'; allowed adagrad, "
            "rowwise_adagrad, sgd; choose one, or raise tables.dense_max_bytes so that the dense "
            "optimiser trains the tables"
        )
    columns = [name for name, how in config.sharding.items() if how == "column_wise"]
    if columns and config.optimizer.name == "rowwise_adagrad":
        mistakes.append(
            f"tables.sharding: column_wise changes row-wise Adagrad (a statistic per piece), got "
            f"column_wise for {', '.join(columns)}; allowed with adagrad, sgd; change one of them"
        )
    if mistakes:
        raise RunConfigError(mistakes)


def _collections(embedder: Embedder) -> Iterator[nn.Module]:
    for module in embedder.modules():
        if isinstance(module, EmbeddingBagCollection | EmbeddingCollection):
            yield module


def _fill_first_values(embedder: Embedder) -> None:
    tables = {table.name: table for table in embedder.sharded_tables()}
    for name, weight in sharded_weights(embedder):
        for local, first_row, first_column in local_parts(weight):
            fill_initial(
                local,
                tables[name],
                seed=embedder.config.seed,
                first_row=first_row,
                first_column=first_column,
            )


def sharded_weights(embedder: Embedder) -> Iterator[tuple[str, Tensor | ShardedTensor]]:
    """Names and weights of the tables of an embedder's collections, sharded or whole."""
    names = {table.name for table in embedder.sharded_tables()}
    for name, weight in embedder.state_dict().items():
        place, *_, table, _ = name.split(".")
        if table in names and place not in ("replicated", "schemes"):
            yield table, weight


def local_parts(weight: Tensor | ShardedTensor) -> Iterator[tuple[Tensor, int, int]]:
    """This rank's parts of a table with the place of each: (values, first row, first column)."""
    if isinstance(weight, ShardedTensor):
        for part in weight.local_shards():
            row, column = part.metadata.shard_offsets
            yield part.tensor, row, column
    else:
        yield weight, 0, 0


class _quiet_planner:
    """Keeps the planner's warnings about our hand-made topology out of the user's log."""

    def __enter__(self) -> None:
        self._loggers = [logging.getLogger("torchrec"), logging.getLogger("torchrec.distributed")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *exception: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
