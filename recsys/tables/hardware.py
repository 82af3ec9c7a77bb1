"""The machines that tables are spread over: those at hand, or others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

Device = Literal["cpu", "cuda"]

RESERVED_SHARE = 0.15
"""Of a process's memory, left to activations, kernels and their buffers, as TorchRec does."""

_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Nodes that are all alike.

    Attributes:
        device: What each process trains on; a GPU holds one process.
        num_nodes: Machines.
        ranks_per_node: Processes of each.
        device_bytes: Memory of a GPU; 0 without.
        node_bytes: Memory of a machine, beside that of its GPUs.
    """

    device: Device
    num_nodes: int
    ranks_per_node: int
    device_bytes: int
    node_bytes: int

    @property
    def world_size(self) -> int:
        """Processes of all nodes."""
        return self.num_nodes * self.ranks_per_node

    @property
    def rank_bytes(self) -> int:
        """Memory that a process keeps tables in."""
        if self.device == "cuda":
            return self.device_bytes
        return self.node_bytes // self.ranks_per_node

    @property
    def usable_bytes(self) -> int:
        """What of it may be planned with."""
        return int(self.rank_bytes * (1 - RESERVED_SHARE))

    @property
    def usable_host_bytes(self) -> int:
        """What a process may plan with of the memory beside its GPU; 0 without a GPU."""
        if self.device == "cpu":
            return 0
        return int(self.node_bytes // self.ranks_per_node * (1 - RESERVED_SHARE))


def hardware_here(device: torch.device, *, num_nodes: int, world_size: int) -> Hardware:
    """The machine of this process, and others like it.

    Args:
        device: Of this process.
        num_nodes: Machines.
        world_size: Processes of all of them.
    """
    on_gpu = device.type == "cuda"
    return Hardware(
        device="cuda" if on_gpu else "cpu",
        num_nodes=num_nodes,
        ranks_per_node=max(1, world_size // num_nodes),
        device_bytes=gpu_bytes_here(device) if on_gpu else 0,
        node_bytes=node_bytes_here(),
    )


def gpu_bytes_here(device: torch.device) -> int:
    """Memory of a GPU of this machine."""
    return torch.cuda.get_device_properties(device).total_memory


def node_bytes_here() -> int:
    """Memory of this machine, within the limit of its container."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _MEMORY_LIMIT.read_text().strip() if _MEMORY_LIMIT.is_file() else "max"
    return physical if limit == "max" else min(physical, int(limit))
