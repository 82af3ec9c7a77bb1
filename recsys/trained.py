"""A trained model, whole and in one process, from the folder of its run."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from jsonargparse import ArgumentParser
from torch import Tensor

import models  # noqa: F401  so that a configuration can name them, as the tasks below
from features.errors import CheckpointMismatchError
from recsys.checkpoint import MODEL, Manifest, read_schema, read_tensors
from recsys.tables.config import TablesConfig
from recsys.training.parser_errors import in_short
from recsys.training.ranking import RankingTask  # noqa: F401
from recsys.training.sequence import SequenceTask  # noqa: F401
from recsys.training.task import Task


def load_task(checkpoint: Path, manifest: Manifest) -> Task:
    """The trained model of a checkpoint, whole and on the CPU, in evaluation mode.

    Args:
        checkpoint: Directory of a checkpoint.
        manifest: Its manifest.

    Raises:
        CheckpointMismatchError: it is damaged, or of another version of a model.
    """
    task = untrained_task(checkpoint, manifest)
    try:
        task.load_state_dict(_whole_names(read_tensors(checkpoint, MODEL)))
    except RuntimeError as error:
        raise CheckpointMismatchError(
            f"{checkpoint}: its tensors are not those of its configuration, got "
            f"{' '.join(str(error).split())}; take the version of the code that trained it"
        ) from error
    return task.eval()


def untrained_task(checkpoint: Path, manifest: Manifest) -> Task:
    """The model of a checkpoint with new weights of its run's seed, whole and on the CPU.

    Args:
        checkpoint: Directory of a checkpoint.
        manifest: Its manifest.

    Raises:
        CheckpointMismatchError: it is of another version of a model.
    """
    task = unbuilt_task(checkpoint, manifest)
    # One process holds every table, so none needs to be a sharded one.
    task.tables_config = TablesConfig(
        dense_max_bytes=sys.maxsize,
        weight_decay=task.tables_config.weight_decay,
        seed=task.seed,
    )
    task.build(read_schema(checkpoint))
    return task


def unbuilt_task(checkpoint: Path, manifest: Manifest) -> Task:
    """The task of a checkpoint as its configuration describes it, before it knows of any features.

    Args:
        checkpoint: Directory of a checkpoint.
        manifest: Its manifest.

    Raises:
        CheckpointMismatchError: it is of another version of a model.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    try:
        config = parser.parse_object({"model": manifest.config["model"]})
    except (KeyError, ArgumentError) as error:
        reason = in_short(str(error)) if isinstance(error, ArgumentError) else f"no {error}"
        raise CheckpointMismatchError(
            f"{checkpoint}: names no model that can be made here, got {reason}; take the version "
            f"of the code that trained it"
        ) from error
    task = cast(Task, parser.instantiate(config).model)
    # The one seed of a run is no part of its model's settings.
    task.seed = int(manifest.config.get("seed_everything", 0))
    task.tables_config = replace(task.tables_config, seed=task.seed)
    return task


def _whole_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the replicated form, for tables that were sharded."""
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] == "embedder" and parts[-1] == "weight" and "collection" in parts:
            name = f"embedder.replicated.weights.{parts[-2]}"
        renamed[name] = tensor
    return renamed
