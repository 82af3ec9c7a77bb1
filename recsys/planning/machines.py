"""The hardware that a person asks about: that of the run file, or another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from features.errors import RunConfigError
from features.sizes import parse_bytes
from recsys.tables.hardware import Hardware, gpu_bytes_here, node_bytes_here

_GPU_NAMES = ("gpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was given on the command line; None: as the run file and this machine say.

    Attributes:
        nodes: Machines.
        gpus_per_node: GPUs of each.
        gpu_memory: Of each GPU, such as 80GiB.
        cpu_memory: Of each machine.
    """

    nodes: int | None
    gpus_per_node: int | None
    gpu_memory: str | None
    cpu_memory: str | None


def wanted_hardware(wanted: Wanted, *, trainer: Any) -> Hardware:
    """Fill in what was left open.

    Args:
        wanted: From the command line.
        trainer: The values of `trainer` in the run file, by name.

    Raises:
        RunConfigError: with all that cannot be read, or that nobody knows.
    """
    mistakes = [
        f"{option}: is too small, got {value}; allowed 1 and more"
        for option, value in (
            ("--nodes", wanted.nodes),
            ("--gpus-per-node", wanted.gpus_per_node),
        )
        if value is not None and value < 1
    ]
    on_gpu = _is_on_gpu(wanted, trainer)
    gpu_bytes = _size("--gpu-memory", wanted.gpu_memory, mistakes)
    cpu_bytes = _size("--cpu-memory", wanted.cpu_memory, mistakes)
    if on_gpu and wanted.gpu_memory is None:
        if torch.cuda.is_available():
            gpu_bytes = gpu_bytes_here(torch.device("cuda", 0))
        else:
            mistakes.append(
                "--gpu-memory: must be given where there is no GPU to ask, got none; allowed a "
                "size, such as 80GiB"
            )
    ranks = wanted.gpus_per_node or _devices(trainer.devices, on_gpu=on_gpu, mistakes=mistakes)
    if mistakes:
        raise RunConfigError(mistakes)
    return Hardware(
        device="cuda" if on_gpu else "cpu",
        num_nodes=wanted.nodes or int(trainer.num_nodes),
        ranks_per_node=ranks,
        device_bytes=gpu_bytes if on_gpu else 0,
        node_bytes=cpu_bytes or node_bytes_here(),
    )


def _is_on_gpu(wanted: Wanted, trainer: Any) -> bool:
    if wanted.gpus_per_node is not None or wanted.gpu_memory is not None:
        return True
    if trainer.accelerator == "auto":
        return torch.cuda.is_available()
    return trainer.accelerator in _GPU_NAMES


def _size(option: str, text: str | None, mistakes: list[str]) -> int:
    if text is None:
        return 0
    try:
        return parse_bytes(text)
    except ValueError as error:
        mistakes.append(f"{option}: {error}")
        return 0


def _devices(devices: Any, *, on_gpu: bool, mistakes: list[str]) -> int:
    """How many `trainer.devices` are."""
    if isinstance(devices, list):
        return len(devices)
    text = str(devices)
    if text in ("auto", "-1"):
        if not on_gpu:
            return 1
        if torch.cuda.is_available():
            return torch.cuda.device_count()
        mistakes.append(
            f"--gpus-per-node: must be given where trainer.devices is {text} and there is no GPU "
            f"to count, got none; allowed 1 and more"
        )
        return 1
    if "," in text:
        return len([part for part in text.split(",") if part.strip()])
    if text.isdigit() and int(text) > 0:
        return int(text)
    mistakes.append(f"trainer.devices: is no number of processes, got {text!r}; allowed 1 and more")
    return 1
