"""Words for tables that do not fit: which one, and by how much."""

from __future__ import annotations

from features.sizes import binary_size
from recsys.tables.hardware import RESERVED_SHARE
from recsys.tables.placement import PlacedTable, Placement


def too_large(placement: Placement) -> list[str]:
    """One message about the fullest rank; none where all fits.

    Args:
        placement: As `decide` gave it.
    """
    if placement.fits:
        return []
    hardware, needed = placement.hardware, placement.rank_bytes()
    on_host = placement.rank_host_bytes()
    if max(on_host) > hardware.usable_host_bytes:
        return [_host_too_small(placement, on_host)]
    rank = needed.index(max(needed))
    excess = needed[rank] - hardware.usable_bytes
    usable = (
        f"{binary_size(hardware.usable_bytes)} of {binary_size(hardware.rank_bytes)} "
        f"({RESERVED_SHARE:.0%} is left to activations and buffers)"
    )
    if placement.replicated_bytes >= hardware.usable_bytes or not placement.tables:
        return [
            f"model: what every process has a copy of, layers and replicated tables, does not fit, "
            f"got {binary_size(placement.replicated_bytes)} with gradients and optimiser; allowed "
            f"{usable}; lower tables.dense_max_bytes, so that tables are sharded, or the sizes of "
            f"the model"
        ]
    table = largest_on(placement, rank=rank)
    part = sum(piece.num_bytes for piece in table.pieces if piece.rank == rank)
    return [
        f"tables.{table.name}: does not fit, got {binary_size(needed[rank])} in process {rank}, "
        f"{binary_size(part)} of it for this table, {table.sharding}; allowed {usable}; "
        f"{binary_size(max(excess, 0))} too much"
        if excess > 0
        else f"tables.{table.name}: no way to place all tables leaves room for it, got "
        f"{binary_size(part)} in process {rank}; allowed {usable}"
    ]


def _host_too_small(placement: Placement, needed: list[int]) -> str:
    """Of the memory of a machine that holds tables for its GPUs."""
    hardware = placement.hardware
    names = [table.name for table in placement.tables if table.is_on_host]
    return (
        f"tables.host_memory: {', '.join(names)} do not fit the memory of a machine beside its "
        f"GPUs, got {binary_size(max(needed) * hardware.ranks_per_node)} for "
        f"{hardware.ranks_per_node} processes; allowed "
        f"{binary_size(hardware.usable_host_bytes * hardware.ranks_per_node)} of "
        f"{binary_size(hardware.node_bytes)} ({RESERVED_SHARE:.0%} is left to the rest)"
    )


def largest_on(placement: Placement, *, rank: int) -> PlacedTable:
    """The table that takes most of a rank's memory.

    Args:
        placement: With sharded tables.
        rank: The rank.
    """

    def num_bytes(table: PlacedTable) -> int:
        return sum(piece.num_bytes for piece in table.pieces if piece.rank == rank)

    return max(placement.tables, key=num_bytes)
