"""Run a function on several gloo processes, as torchrun would."""

import multiprocessing
import os
import traceback
import uuid
import warnings

import pytest
import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor import ShardedTensor

from recsys.tables.plan import local_parts

# Numbers of processes that whatever is sharded must not depend on.
WORLD_SIZES = [1, 2, pytest.param(4, marks=pytest.mark.slow)]


def forking():
    """Starts processes from one that has imported what takes long, and has done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning.pytorch", "recsys.training.strategy", "models"])
    return context


def take_over(environment):
    """What a process has that is started anew, in one that was forked."""
    os.environ.clear()
    os.environ |= environment
    torch.set_num_threads(1)


def run_processes(world_size, function, directory, *args):
    """Call `function(rank, world_size, *args)` on each rank; give what rank 0 returned."""
    context = forking()
    results = context.Queue()
    rendezvous = f"file://{directory}/rendezvous-{uuid.uuid4().hex}"
    processes = [
        context.Process(
            target=_enter,
            args=(rank, world_size, dict(os.environ), rendezvous, results, function, args),
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    outcomes = dict(results.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    errors = [text for kind, text in outcomes.values() if kind == "error"]
    assert not errors, "\n".join(errors)
    return outcomes[0][1]


def _enter(rank, world_size, environment, rendezvous, results, function, args):
    warnings.simplefilter("ignore")
    take_over(environment)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ["LOCAL_WORLD_SIZE"] = str(world_size)
    try:
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
        results.put((rank, ("value", function(rank, world_size, *args))))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, ("error", f"rank {rank}: {traceback.format_exc()}")))


def whole(weight):
    """All parts of a table, sharded or not, put together on every rank."""
    full = torch.zeros(weight.size(), dtype=weight.dtype)
    for part, row, column in local_parts(weight):
        if part.dim() == 2:
            full[row : row + part.shape[0], column : column + part.shape[1]] = part
        else:
            full.copy_(part)
    if isinstance(weight, ShardedTensor):
        dist.all_reduce(full)
    return full.numpy()
