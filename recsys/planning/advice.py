"""What would make tables fit; each change is planned before it is advised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from features.errors import RecsysError
from features.sizes import binary_size, format_bytes
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.fused import attach_optimizer, state_bytes
from recsys.tables.hardware import Hardware
from recsys.tables.overfull import largest_on
from recsys.tables.placement import Placement, decide
from recsys.tables.scheme import BYTES_PER_NUMBER
from recsys.training.ranking import RankingTask
from recsys.training.task import Task

_MOST_NODES = 128


@dataclass(frozen=True)
class Planned:
    """A run and where its tables come to lie.

    Attributes:
        task: Built, and not sharded.
        hardware: What it would be trained on.
        examples_per_rank: Of a step of one rank.
    """

    task: Task
    hardware: Hardware
    examples_per_rank: int

    def placement(
        self, *, config: TablesConfig | None = None, hardware: Hardware | None = None
    ) -> Placement:
        """Decide as training would.

        Args:
            config: Where tables live, if other than in the run file.
            hardware: If other than its own.

        Raises:
            RunConfigError: such tables cannot be trained so.
            FeatureConfigError: a table that would be sharded cannot be.
        """
        hardware = hardware or self.hardware
        task = self.task
        # Anew each time: an optimiser is attached for good.
        task.embedder = Embedder(
            task.logical_tables(task.schema), config=config or task.tables_config
        )
        attach_optimizer(task.embedder, device=hardware.device)
        ranks = self.hardware.world_size
        examples = max(1, self.examples_per_rank * ranks // hardware.world_size)
        return decide(task, hardware=hardware, examples_per_rank=examples)


def what_fits(planned: Planned, placement: Placement) -> list[str]:
    """Changes in words, each of which makes all fit by itself.

    Args:
        planned: The run.
        placement: Where it does not fit.
    """
    found = [
        words
        for words, config in _other_settings(planned)
        if _fits(planned, config=config, hardware=planned.hardware)
    ]
    beside = _host_memory(planned, placement)
    if beside is not None:
        found.append(beside)
    nodes = _enough_nodes(planned, placement)
    if nodes is not None:
        found.append(f"take {nodes.num_nodes} nodes like these: --nodes {nodes.num_nodes}")
    budget = _budget(planned, placement)
    if budget is not None:
        found.append(budget)
    return found


def _other_settings(planned: Planned) -> Iterator[tuple[str, TablesConfig]]:
    config = planned.task.tables_config
    path = "model.init_args.tables"
    if config.sharding:
        names = ", ".join(config.sharding)
        yield f"drop {path}.sharding of {names}", replace(config, sharding={})
    now = state_bytes(config.optimizer, num_rows=1, dim=4)
    for name in ("adagrad", "rowwise_adagrad", "sgd"):
        optimizer = replace(config.optimizer, name=name)
        if state_bytes(optimizer, num_rows=1, dim=4) < now:
            words = f"set {path}.optimizer.name to {name}: another update rule, so other results"
            yield words, replace(config, optimizer=optimizer)
    if config.row_dtype == "fp32":
        words = f"set {path}.row_dtype to fp16: rows of half the bytes, rounded at every update"
        yield words, replace(config, row_dtype="fp16")
    default = TablesConfig().dense_max_bytes
    if config.dense_max_bytes > default and isinstance(planned.task, RankingTask):
        words = (
            f"set {path}.dense_max_bytes to {default}: larger tables are sharded, and trained by "
            f"{path}.optimizer"
        )
        yield words, replace(config, dense_max_bytes=default)


def _fits(planned: Planned, *, config: TablesConfig, hardware: Hardware) -> bool:
    try:
        return planned.placement(config=config, hardware=hardware).fits
    except RecsysError:  # it cannot be trained so, hence is no advice
        return False


def _host_memory(planned: Planned, placement: Placement) -> str | None:
    """The largest tables beside the GPUs, as few of them as a few trials find."""
    if placement.hardware.device != "cuda":
        return None
    config = planned.task.tables_config
    left = [table for table in placement.tables if not table.is_on_host]
    names = [t.name for t in sorted(left, key=lambda table: table.num_bytes, reverse=True)]
    for count in sorted({*(1 << power for power in range(len(names).bit_length())), len(names)}):
        chosen = (*config.host_memory, *names[:count])
        if count and _fits(
            planned, config=replace(config, host_memory=chosen), hardware=planned.hardware
        ):
            return (
                f"set model.init_args.tables.host_memory to [{', '.join(chosen)}]: rows lie in the "
                f"memory of the machine, and a step waits for those that the GPU does not have"
            )
    return None


def _enough_nodes(planned: Planned, placement: Placement) -> Hardware | None:
    """The same machines, as few more of them as a few trials find."""
    here = planned.hardware
    free = here.usable_bytes - placement.replicated_bytes
    if free <= 0:
        return None
    needed = sum(table.num_bytes for table in placement.tables)
    least = max(here.num_nodes + 1, -(-needed // (free * here.ranks_per_node)))
    for num_nodes in sorted({least, least + 1, 2 * least}):
        more = replace(here, num_nodes=num_nodes)
        if num_nodes <= _MOST_NODES and _fits(
            planned, config=planned.task.tables_config, hardware=more
        ):
            return more
    return None


def _budget(planned: Planned, placement: Placement) -> str | None:
    """The size that the largest table may have, cut over all ranks; by arithmetic alone."""
    if not placement.tables:
        return None
    hardware = placement.hardware
    needed = placement.rank_bytes()
    table = largest_on(placement, rank=needed.index(max(needed)))
    if table.is_on_host:
        return None
    others = sum(needed) - table.num_bytes
    free = hardware.world_size * hardware.usable_bytes - others
    # A budget is one of numbers of 32 bits, whatever they are trained in.
    weights = table.num_rows * table.dim * BYTES_PER_NUMBER
    config = planned.task.tables_config
    state = state_bytes(config.optimizer, num_rows=table.num_rows, dim=table.dim)
    per_weight = config.bytes_per_row_number / BYTES_PER_NUMBER + state / weights
    buffers = sum(piece.buffer_bytes for piece in table.pieces)
    # A tenth is left to what cannot be cut evenly.
    budget = int(0.9 * (free - buffers) / per_weight)
    scheme = planned.task.embedder.scheme_storing(table.name)
    if budget <= 0 or len(scheme.physical_tables) > 1:
        return None
    return (
        f"store `{scheme.table.name}` in less, by a scheme with a budget of about "
        f"{format_bytes(budget)} instead of {format_bytes(weights)} "
        f"({binary_size(budget)} of {binary_size(weights)}), such as unified or hash; see "
        f"docs/tables.md"
    )
