"""A plan as tables for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from features.sizes import binary_size
from recsys.tables.embedder import Embedder
from recsys.tables.hardware import Hardware
from recsys.tables.placement import DENSE_COPIES, PlacedTable, Placement

if TYPE_CHECKING:
    from rich.table import Table


def hardware_in_words(hardware: Hardware) -> str:
    """One line."""
    processes = f"{hardware.world_size} process{'es' * (hardware.world_size > 1)}"
    if hardware.device == "cuda":
        return (
            f"{hardware.num_nodes} x {hardware.ranks_per_node} GPUs of "
            f"{binary_size(hardware.device_bytes)}: {processes}"
        )
    return (
        f"{hardware.num_nodes} machine{'s' * (hardware.num_nodes > 1)} of "
        f"{binary_size(hardware.node_bytes)}, without GPUs: {processes}"
    )


def plan_tables(placement: Placement, embedder: Embedder) -> list[Table]:
    """Tables of the model, then ranks.

    Args:
        placement: What was decided.
        embedder: Whose tables were placed.
    """
    return [_of_tables(placement, embedder), _of_ranks(placement)]


def plan_json(placement: Placement, embedder: Embedder) -> dict[str, Any]:
    """All of it in numbers; bytes and milliseconds.

    Args:
        placement: What was decided.
        embedder: Whose tables were placed.
    """
    hardware = placement.hardware
    return {
        "fits": placement.fits,
        "hardware": {
            "device": hardware.device,
            "nodes": hardware.num_nodes,
            "ranks_per_node": hardware.ranks_per_node,
            "rank_bytes": hardware.rank_bytes,
            "usable_bytes": hardware.usable_bytes,
        },
        "tables": [
            {
                "name": table.name,
                "rows": table.num_rows,
                "width": table.dim,
                "scheme": _scheme(embedder, table.name),
                "row_dtype": embedder.config.row_dtype,
                "sharding": table.sharding,
                "is_hinted": table.is_hinted,
                "is_on_host": table.is_on_host,
                "step_ms": table.step_ms,
                "pieces": [
                    {
                        "rank": piece.rank,
                        "rows": piece.num_rows,
                        "width": piece.dim,
                        "weight_bytes": piece.weight_bytes,
                        "optimizer_bytes": piece.state_bytes,
                        "buffer_bytes": piece.buffer_bytes,
                        "cache_bytes": piece.cache_bytes,
                    }
                    for piece in table.pieces
                ],
            }
            for table in placement.tables
        ],
        "replicated": [table.name for table in embedder.replicated_tables()],
        "replicated_bytes": placement.replicated_bytes,
        "bytes_of_ranks": placement.rank_bytes(),
        "host_bytes_of_ranks": placement.rank_host_bytes(),
        "step_ms": placement.step_ms(),
    }


def _of_tables(placement: Placement, embedder: Embedder) -> Table:
    from rich.table import Table

    shown = Table(title="tables", box=None, pad_edge=False, title_justify="left")
    for heading in ("table", "rows", "width", "scheme", "sharding", "ranks"):
        shown.add_column(heading, justify="right" if heading in ("rows", "width") else "left")
    for heading in ("per rank", "with buffers", "ms"):
        shown.add_column(heading, justify="right")
    for table in placement.tables:
        kept = max(piece.table_bytes for piece in table.pieces)
        shown.add_row(
            table.name,
            f"{table.num_rows:,}",
            str(table.dim),
            _scheme(embedder, table.name),
            table.sharding + " (run file)" * table.is_hinted + ", on host" * table.is_on_host,
            _ranks(table),
            binary_size(kept),
            binary_size(max(piece.num_bytes for piece in table.pieces)),
            f"{table.step_ms:.3f}",
        )
    for table in embedder.replicated_tables():
        num_bytes = binary_size(table.num_rows * table.dim * 4 * DENSE_COPIES)
        rows, scheme = f"{table.num_rows:,}", _scheme(embedder, table.name)
        cells = (table.name, rows, str(table.dim), scheme, "replicated", "all")
        shown.add_row(*cells, num_bytes, num_bytes, "")
    return shown


def _of_ranks(placement: Placement) -> Table:
    from rich.table import Table

    shown = Table(title="memory of ranks", box=None, pad_edge=False, title_justify="left")
    shown.add_column("ranks")
    on_host, hosted = placement.rank_host_bytes(), ("on host", "usable there")
    headings = ("replicated", "tables", "in all", "usable", "share")
    for heading in (*headings, *(hosted if any(on_host) else ())):
        shown.add_column(heading, justify="right")
    hardware, usable = placement.hardware, placement.hardware.usable_bytes
    for ranks, (needed, beside) in _alike(zip(placement.rank_bytes(), on_host, strict=True)):
        of_host = (binary_size(beside), binary_size(hardware.usable_host_bytes))
        shown.add_row(
            ranks,
            binary_size(placement.replicated_bytes),
            binary_size(needed - placement.replicated_bytes),
            binary_size(needed),
            binary_size(usable),
            f"{needed / usable:.1%}" if usable else "-",
            *(of_host if any(on_host) else ()),
        )
    return shown


def _alike(needed: Iterable[tuple[int, int]]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Neighbouring ranks that need the same, of their device and of their machine."""
    for num_bytes, group in groupby(enumerate(needed), key=lambda pair: pair[1]):
        yield _range([rank for rank, _ in group]), num_bytes


def _ranks(table: PlacedTable) -> str:
    ranks = sorted({piece.rank for piece in table.pieces if piece.num_rows})
    steps = groupby(enumerate(ranks), key=lambda pair: pair[1] - pair[0])
    return ", ".join(_range([rank for _, rank in group]) for _, group in steps)


def _range(ranks: list[int]) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"


def _scheme(embedder: Embedder, table: str) -> str:
    return embedder.scheme_storing(table).table.spec.scheme
