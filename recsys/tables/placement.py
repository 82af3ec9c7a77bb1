"""Which rank holds what of each sharded table: one decision, for training and for `recsys plan`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from torch import nn
from torchrec.distributed.planner.types import Shard, ShardingOption
from torchrec.distributed.types import ShardingPlan

from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.fused import state_bytes
from recsys.tables.hardware import Hardware
from recsys.tables.planner import CACHED_SHARE, PlanSearch, check_pieces
from recsys.tables.scheme import BYTES_PER_NUMBER

_UNLIMITED_BYTES = 1 << 60
_PLACE_BYTES = 4
"""fbgemm notes on the GPU the table of each row that may be cached."""
_SLOT_BYTES = 16
"""And for each row that is, which one, and when it was last read."""
DENSE_COPIES = 4
"""Of what all ranks have: weights, gradients, and two numbers each of an optimiser like Adam."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a rank holds of a table.

    Attributes:
        rank: The rank.
        num_rows: Of the piece; 0 where there are more ranks than rows.
        dim: Of the piece.
        weight_bytes: Of its numbers.
        state_bytes: Of what the optimiser keeps of them.
        buffer_bytes: Ids and vectors that a step moves, as TorchRec estimates them.
        step_ms: Time of a step, likewise.
        is_on_host: Whether weights and state lie in the memory of the machine, beside the GPU.
    """

    rank: int
    num_rows: int
    dim: int
    weight_bytes: int
    state_bytes: int
    buffer_bytes: int
    step_ms: float
    is_on_host: bool = False

    @property
    def cache_bytes(self) -> int:
        """Of rows that a GPU keeps of a piece in the memory of the machine, and of their places."""
        if not self.is_on_host:
            return 0
        places = math.ceil(self.num_rows * (_PLACE_BYTES + CACHED_SHARE * _SLOT_BYTES))
        return round(self.weight_bytes * CACHED_SHARE) + places

    @property
    def table_bytes(self) -> int:
        """What the device of the rank holds of it between steps."""
        return self.cache_bytes if self.is_on_host else self.weight_bytes + self.state_bytes

    @property
    def num_bytes(self) -> int:
        """All that it takes of the device of the rank."""
        return self.table_bytes + self.buffer_bytes

    @property
    def host_bytes(self) -> int:
        """What it takes of the memory of the machine, beside that of its GPUs."""
        return self.weight_bytes + self.state_bytes if self.is_on_host else 0


@dataclass(frozen=True, kw_only=True)
class PlacedTable:
    """A sharded table and its pieces.

    Attributes:
        name: Of the physical table.
        num_rows: V.
        dim: D.
        sharding: How it is cut, as TorchRec calls it.
        is_hinted: Whether the run file says so.
        pieces: By rank.
    """

    name: str
    num_rows: int
    dim: int
    sharding: str
    is_hinted: bool
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        """On the devices of all ranks together."""
        return sum(piece.num_bytes for piece in self.pieces)

    @property
    def is_on_host(self) -> bool:
        """Whether its rows lie in the memory of the machine, beside the GPUs."""
        return any(piece.is_on_host for piece in self.pieces)

    @property
    def step_ms(self) -> float:
        """Of the rank that takes longest."""
        return max(piece.step_ms for piece in self.pieces)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the tables of a model come to lie.

    Attributes:
        hardware: What was planned for.
        fits: Whether every rank has the memory.
        replicated_bytes: Of all that each rank has a copy of, gradients and optimiser included.
        tables: The sharded ones. Where nothing fits: cut as evenly as the run file allows.
        plan: What TorchRec is told.
    """

    hardware: Hardware
    fits: bool
    replicated_bytes: int
    tables: tuple[PlacedTable, ...]
    plan: ShardingPlan = field(repr=False)

    def rank_bytes(self) -> list[int]:
        """What each rank needs of its device in all."""
        needed = [self.replicated_bytes] * self.hardware.world_size
        for table in self.tables:
            for piece in table.pieces:
                needed[piece.rank] += piece.num_bytes
        return needed

    def rank_host_bytes(self) -> list[int]:
        """What each rank needs of the memory of its machine, beside that of the GPU."""
        needed = [0] * self.hardware.world_size
        for table in self.tables:
            for piece in table.pieces:
                needed[piece.rank] += piece.host_bytes
        return needed

    def step_ms(self) -> float:
        """Of all tables, on the rank that takes longest."""
        times = [0.0] * self.hardware.world_size
        for table in self.tables:
            for piece in table.pieces:
                times[piece.rank] += piece.step_ms
        return max(times)


def decide(module: nn.Module, *, hardware: Hardware, examples_per_rank: int) -> Placement:
    """Place the tables of all embedders inside a module.

    The same for the same arguments, in any process. The collections have their optimisers already.

    Args:
        module: Holds embedders; the rest of it is replicated.
        hardware: Where it is to be trained.
        examples_per_rank: Of a step of one rank; buffers and times depend on it.

    Raises:
        RunConfigError: a table cannot be cut as the run file wants for so many ranks.
    """
    embedders = tuple(embedders_of(module).values())
    check_pieces(embedders, world_size=hardware.world_size)
    replicated_bytes = _replicated_bytes(module, embedders)
    free_bytes = max(0, hardware.usable_bytes - replicated_bytes)
    search = PlanSearch(module, embedders, hardware, examples_per_rank)
    found = search.best(memory_bytes=free_bytes, host_bytes=hardware.usable_host_bytes)
    fits = found is not None and hardware.usable_bytes >= replicated_bytes
    if found is None:
        found = search.best(
            memory_bytes=_UNLIMITED_BYTES, host_bytes=_UNLIMITED_BYTES, is_even=True
        )
        assert found is not None, "any plan fits unlimited memory"
    plan, options = found
    return Placement(
        hardware=hardware,
        fits=fits,
        replicated_bytes=replicated_bytes,
        tables=_placed(options, embedders),
        plan=plan,
    )


def embedders_of(module: nn.Module) -> dict[str, Embedder]:
    """Embedders inside a module, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Embedder)}


def _placed(
    options: Sequence[ShardingOption], embedders: Sequence[Embedder]
) -> tuple[PlacedTable, ...]:
    by_name = {option.name: option for option in options}
    return tuple(
        PlacedTable(
            name=table.name,
            num_rows=table.num_rows,
            dim=table.dim,
            sharding=option.sharding_type,
            is_hinted=table.name in embedder.config.sharding,
            pieces=tuple(
                _piece(
                    shard,
                    embedder.config,
                    is_on_host=table.name in embedder.config.host_memory,
                )
                for shard in option.shards
            ),
        )
        for embedder in embedders
        for table in embedder.sharded_tables()
        if (option := by_name.get(table.name)) is not None
    )


def _piece(shard: Shard, config: TablesConfig, *, is_on_host: bool) -> Piece:
    num_rows, dim = shard.size
    weights = num_rows * dim * config.bytes_per_row_number
    state = state_bytes(config.optimizer, num_rows=num_rows, dim=dim)
    assert shard.rank is not None
    assert shard.storage is not None
    assert shard.perf is not None
    piece = Piece(
        rank=shard.rank,
        num_rows=num_rows,
        dim=dim,
        weight_bytes=weights,
        state_bytes=state,
        buffer_bytes=0,
        step_ms=shard.perf.total,
        is_on_host=is_on_host,
    )
    # TorchRec counts, beside the rows that are cached, as large a share of the optimiser's state,
    # of the bits that rows have, which fbgemm keeps with the table.
    counted = state * config.bytes_per_row_number // BYTES_PER_NUMBER
    cached = piece.cache_bytes + round(counted * CACHED_SHARE)
    kept = cached if is_on_host else weights + state
    device = shard.storage.hbm if is_on_host else shard.storage.hbm + shard.storage.ddr
    return replace(piece, buffer_bytes=max(0, device - kept))


def _replicated_bytes(module: nn.Module, embedders: Collection[Embedder]) -> int:
    """Of all that is not sharded, see `DENSE_COPIES`."""
    sharded = {id(p) for embedder in embedders for p in embedder.sharded_parameters()}
    own = sum(p.nbytes for p in module.parameters() if id(p) not in sharded)
    return DENSE_COPIES * own + sum(buffer.nbytes for buffer in module.buffers())
