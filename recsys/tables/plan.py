"""Cutting the collections over the ranks, as was decided, and filling in first values."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.collective_utils import invoke_on_rank_and_broadcast_result
from torchrec.distributed.model_parallel import DataParallelWrapper, DefaultDataParallelWrapper
from torchrec.distributed.types import ShardingEnv

from features.errors import RunConfigError
from recsys.tables.embedder import Embedder
from recsys.tables.fused import attach_optimizer, lookups
from recsys.tables.hardware import hardware_here
from recsys.tables.initial import fill_initial
from recsys.tables.overfull import too_large
from recsys.tables.placement import Placement, decide, embedders_of
from recsys.tables.planner import quiet_planner, sharders


class _DataParallel(DataParallelWrapper):
    """DDP for what is not sharded; nothing on a single rank, where it would only copy gradients."""

    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        """Wrap in place."""
        if env.world_size > 1:
            # static_graph: training steps of one task may differ in what they touch.
            DefaultDataParallelWrapper(static_graph=False).wrap(dmp, env, device)


def shard(
    module: nn.Module,
    *,
    device: torch.device,
    num_nodes: int = 1,
    examples_per_rank: int = 1024,
) -> DistributedModelParallel:
    """Shard every embedder inside a module over the default process group, fill in first values.

    The same on one rank as on many. The module itself is changed.

    Args:
        module: Holds embedders; the rest of it is replicated.
        device: Of this rank.
        num_nodes: Machines that the ranks are spread over.
        examples_per_rank: Of a training step; see `decide`.

    Raises:
        RunConfigError: the fused optimiser does not exist on this kind of device, or the tables do
            not fit its memory.
    """
    embedders = embedders_of(module)
    for embedder in embedders.values():
        attach_optimizer(embedder, device=device.type)
    placement = _shared_placement(
        module, device=device, num_nodes=num_nodes, examples_per_rank=examples_per_rank
    )
    with quiet_planner():
        sharded = DistributedModelParallel(
            module,
            device=device,
            plan=placement.plan,
            sharders=sharders(),
            init_data_parallel=False,
            data_parallel_wrapper=_DataParallel(),
        )
        sharded.to(device)
        sharded.init_data_parallel()
    for embedder in embedders.values():
        _fill_first_values(embedder)
    return sharded


def forget_cached_rows(module: nn.Module) -> None:
    """Let GPUs read anew what lies in the memory of their machines, since it was written there.

    Args:
        module: Sharded.
    """
    for lookup in lookups(module):
        lookup.purge()  # pyright: ignore[reportCallIssue]


def _shared_placement(
    module: nn.Module, *, device: torch.device, num_nodes: int, examples_per_rank: int
) -> Placement:
    """What the first rank decides for all of them, on hardware like its own."""

    def placement() -> Placement | RunConfigError:
        hardware = hardware_here(device, num_nodes=num_nodes, world_size=dist.get_world_size())
        try:
            decided = decide(module, hardware=hardware, examples_per_rank=examples_per_rank)
        except RunConfigError as error:
            return error  # raised by all, since a rank that waits for a plan would wait forever
        return decided if decided.fits else RunConfigError(map(_with_help, too_large(decided)))

    group = dist.GroupMember.WORLD
    assert group is not None, "a process group has been started"
    found = invoke_on_rank_and_broadcast_result(group, 0, placement)
    if isinstance(found, RunConfigError):
        raise found
    return found


def _with_help(mistake: str) -> str:
    return f"{mistake}; `python -m recsys plan -c EXPERIMENT` says what would fit"


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
