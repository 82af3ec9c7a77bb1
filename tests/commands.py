"""The commands, run in this process: each start of another costs seconds of imports."""

import warnings
from pathlib import Path

import torch.distributed as dist
import yaml

import train
from recsys.__main__ import main as verbs


def experiment(directory: Path, model: dict, *, features: str, name: str = "run") -> Path:
    """An experiment file; its run comes to lie in `directory/runs/NAME`."""
    content = {
        "data": {
            "features": str(directory / features),
            "data_dir": str(directory / "data"),
            "store": str(directory / "store"),
            "batch_size": 64,
        },
        "model": model,
        "run": {"root": str(directory / "runs")},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def train_command(*arguments: object) -> int:
    """`python train.py ...`; gives the exit code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a process of its own would print them
            train.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def recsys_command(*arguments: object) -> int:
    """`python -m recsys ...`; gives the exit code."""
    try:
        return verbs([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
