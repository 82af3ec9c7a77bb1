"""TorchRec's planner, as it is used here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.proposers import (
    GreedyProposer,
    GridSearchProposer,
    UniformProposer,
)
from torchrec.distributed.planner.stats import NoopEmbeddingStats
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    ParameterConstraints,
    PlannerError,
    Shard,
    ShardingOption,
    Storage,
)
from torchrec.distributed.types import CacheParams, ModuleSharder, ShardingPlan, ShardingType
from torchrec.modules.embedding_configs import DataType

from features.errors import RunConfigError
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.fused import state_bytes
from recsys.tables.hardware import Hardware
from recsys.tables.scheme import BYTES_PER_NUMBER, PhysicalTable

_ROW_NUMBERS = 4
_MOST_COMBINATIONS = 1000

CACHED_SHARE = 0.2
"""Of a table in the memory of the machine, the rows that a GPU has room for: fbgemm's default."""


@dataclass(frozen=True)
class PlanSearch:
    """TorchRec's planner on the tables of a model.

    Attributes:
        module: Holds the embedders.
        embedders: Theirs are the tables; they have their optimisers.
        hardware: What is planned for.
        examples_per_rank: Of a step.
    """

    module: nn.Module
    embedders: tuple[Embedder, ...]
    hardware: Hardware
    examples_per_rank: int

    def best(
        self, *, memory_bytes: int, host_bytes: int, is_even: bool = False
    ) -> tuple[ShardingPlan, list[ShardingOption]] | None:
        """The fastest plan that fits, and its choices in detail; None where none does.

        Args:
            memory_bytes: Of each rank.
            host_bytes: Of each rank, of the machine's memory beside its GPU.
            is_even: Whether to cut all tables over all ranks, but for those of the run file.
        """
        hardware = self.hardware
        even = [ShardingType.ROW_WISE.value]
        constraints = self._constraints(even if is_even else _default_types(hardware))
        if not constraints:
            return ShardingPlan(plan={}), []
        chosen: list[ShardingOption] = []
        with quiet_planner():
            topology = Topology(
                world_size=hardware.world_size,
                local_world_size=hardware.ranks_per_node,
                compute_device=hardware.device,
                hbm_cap=memory_bytes,
                ddr_cap=host_bytes if hardware.device == "cuda" else memory_bytes,
            )
            planner = EmbeddingShardingPlanner(
                topology=topology,
                batch_size=self.examples_per_rank,
                enumerator=_Enumerator(
                    topology,
                    batch_size=self.examples_per_rank,
                    constraints=constraints,
                    configs=self._configs(),
                ),
                constraints=constraints,
                # All that is to stay free is off the topology already.
                storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
                stats=NoopEmbeddingStats(),
                callbacks=[lambda options: chosen.extend(options) or options],
                # Its default but for all combinations of many tables, which take minutes.
                proposer=[
                    GridSearchProposer(max_proposals=_MOST_COMBINATIONS),
                    GreedyProposer(),
                    GreedyProposer(use_depth=False),
                    UniformProposer(),
                ],
            )
            try:
                return planner.plan(self.module, sharders()), chosen
            except PlannerError:
                return None

    def _configs(self) -> dict[str, TablesConfig]:
        """By sharded table."""
        return {t.name: e.config for e in self.embedders for t in e.sharded_tables()}

    def _constraints(self, defaults: list[str]) -> dict[str, ParameterConstraints]:
        found = {}
        for embedder in self.embedders:
            lengths = embedder.lookup_lengths()
            for table in embedder.sharded_tables():
                hint = embedder.config.sharding.get(table.name)
                is_on_host = table.name in embedder.config.host_memory
                kernels = EmbeddingComputeKernel
                kernel = kernels.FUSED_UVM_CACHING if is_on_host else kernels.FUSED
                has_rows = _has_rows_everywhere(table, world_size=self.hardware.world_size)
                types = defaults if has_rows else [ShardingType.TABLE_WISE.value]
                found[table.name] = ParameterConstraints(
                    sharding_types=[hint] if hint else types,
                    compute_kernels=[kernel.value],
                    cache_params=CacheParams(load_factor=CACHED_SHARE) if is_on_host else None,
                    min_partition=_column_width(table, world_size=self.hardware.world_size),
                    pooling_factors=[float(length) for length in lengths[table.name]],
                    output_dtype=DataType.FP32,
                )
        return found


def sharders() -> list[ModuleSharder[Any]]:
    """What cuts the collections."""
    return [_BagSharder(), EmbeddingCollectionSharder()]


class _BagSharder(EmbeddingBagCollectionSharder):
    """TorchRec's own, which offers no row-wise sharding on a CPU though its kernels do it."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """All that the kernels can do."""
        offered = super().sharding_types(compute_device_type)
        return [*dict.fromkeys([*offered, ShardingType.ROW_WISE.value])]


class _Enumerator(EmbeddingEnumerator):
    """TorchRec's own, whose order of choices, and so among equals the chosen one, is random.

    Args:
        topology: What is planned for.
        batch_size: Examples of a step of one rank.
        constraints: By table.
        configs: By table; their optimisers' state has 32 bits, which TorchRec counts as if it had
            those of the rows.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        batch_size: int,
        constraints: dict[str, ParameterConstraints],
        configs: Mapping[str, TablesConfig],
    ) -> None:
        super().__init__(topology, batch_size=batch_size, constraints=constraints)
        self._configs = configs
        self._on_gpu = topology.compute_device == "cuda"

    def enumerate(
        self, module: nn.Module, sharders: list[ModuleSharder[nn.Module]]
    ) -> list[ShardingOption]:
        """All choices, by table and type."""
        found = super().enumerate(module, sharders)
        for option in found:
            for shard in option.shards:
                self._count_state(shard, self._configs[option.name], table=option.name)
        return sorted(found, key=lambda option: (option.fqn, option.sharding_type))

    def _count_state(self, shard: Shard, config: TablesConfig, *, table: str) -> None:
        num_rows, dim = shard.size
        state = state_bytes(config.optimizer, num_rows=num_rows, dim=dim)
        missing = state - state * config.bytes_per_row_number // BYTES_PER_NUMBER
        assert shard.storage is not None, "super() has estimated it"
        on_gpu, on_cpu = (
            (missing, 0) if self._on_gpu and table not in config.host_memory else (0, missing)
        )
        shard.storage += Storage(hbm=on_gpu, ddr=on_cpu)


def _default_types(hardware: Hardware) -> list[str]:
    # Column-wise is left out: with row-wise Adagrad it is another algorithm, one statistic a shard.
    # Data-parallel is left out: such a table would leave the fused optimiser without a word.
    types = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
    if hardware.device == "cuda":
        types.append(ShardingType.TABLE_ROW_WISE.value)
    return types


def _column_width(table: PhysicalTable, *, world_size: int) -> int:
    """Least width of a column-wise piece, so that no rank has more than one."""
    return -(-table.dim // (world_size * _ROW_NUMBERS)) * _ROW_NUMBERS


def _has_rows_everywhere(table: PhysicalTable, *, world_size: int) -> bool:
    """Whether row-wise sharding gives every rank a row.

    Pieces have `ceil(rows / ranks)` rows, the last ones what is left. fbgemm takes a group of
    tables without any row on a CPU for one on a GPU, and fails.
    """
    rows_each = -(-table.num_rows // world_size)
    return rows_each * (world_size - 1) < table.num_rows


def check_pieces(embedders: Sequence[Embedder], *, world_size: int) -> None:
    """Refuse what a run file wants cut and cannot be.

    Args:
        embedders: Whose tables it names.
        world_size: Ranks.

    Raises:
        RunConfigError: with all tables that cannot be cut as wanted.
    """
    mistakes = [
        f"tables.sharding.{table.name}: {mistake}; change it, or leave it out"
        for embedder in embedders
        for table in embedder.sharded_tables()
        for mistake in _bad_pieces(
            table, how=embedder.config.sharding.get(table.name), world_size=world_size
        )
    ]
    if mistakes:
        raise RunConfigError(mistakes)


def _bad_pieces(table: PhysicalTable, *, how: str | None, world_size: int) -> Iterator[str]:
    if how == "row_wise" and not _has_rows_everywhere(table, world_size=world_size):
        yield (
            f"row_wise would leave one of {world_size} processes without a row, got a table of "
            f"{table.num_rows} rows; allowed table_wise"
        )
    if how == "column_wise" and world_size > 1:
        least = _column_width(table, world_size=world_size)
        if not any(table.dim % width == 0 for width in range(least, table.dim, _ROW_NUMBERS)):
            yield (
                f"column_wise cuts a width into equal multiples of {_ROW_NUMBERS}, one for each of "
                f"{world_size} processes at most, got a width of {table.dim}; allowed table_wise, "
                "row_wise"
            )


@contextmanager
def quiet_planner() -> Iterator[None]:
    """Keeps the planner's warnings about our hand-made topology out of the user's log."""
    loggers = [logging.getLogger("torchrec"), logging.getLogger("torchrec.distributed")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
