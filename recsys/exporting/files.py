"""The files of a bundle that score, from a trained task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file

from features.permissions import give_usual_mode
from features.storage import save_schema
from recsys.bundle import (
    DTYPE_KEY,
    ITEM_BIAS,
    ITEM_MAP,
    MODEL_KEY,
    SCHEMA,
    TABLES,
    BundleManifest,
    write_manifest,
)
from recsys.exporting.alignment import Alignment
from recsys.exporting.programs import exported_programs
from recsys.protocols import SequenceEncoder
from recsys.tables.few_bits import TableDType
from recsys.tables.packing import packed_tables
from recsys.training.ranking import RankingTask
from recsys.training.sequence import SequenceTask
from recsys.training.task import Task

_VERSIONED = ("recsys", "torch", "torchrec", "polars", "polars-hash", "safetensors")


@dataclass(frozen=True)
class Origin:
    """Where a task was trained.

    Attributes:
        run: Name of the run.
        step: Optimiser steps behind it.
        metrics: As logged by the checkpoint.
    """

    run: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Written:
    """A bundle that scores, but has no card yet.

    Attributes:
        manifest: As written.
        table_bytes: Size of each logical table, with the parameters of its scheme.
    """

    manifest: BundleManifest
    table_bytes: Mapping[str, int]


def write_files(
    task: Task,
    directory: Path,
    *,
    origin: Origin,
    table_dtype: TableDType,
    width: int | None = None,
    alignment: Alignment | None = None,
) -> Written:
    """Write schema, tables, programs and a manifest.

    Args:
        task: Trained, whole, and in evaluation mode.
        directory: Is there, and empty.
        origin: Of the task.
        table_dtype: Of tables that are stored row for row.
        width: First numbers to keep of a sequence model's vectors. None: all.
        alignment: Turns what is kept of them. None: nothing does.

    Raises:
        CheckpointMismatchError: tables hold numbers that have no form of so few bits.
    """
    fingerprint = model_fingerprint(task)
    tables = packed_tables(task.embedder, dtype=table_dtype)
    save_file(
        {name: tensor for of_table in tables.values() for name, tensor in of_table}
        | _item_bias(task)
        | ({} if alignment is None else {ITEM_MAP: alignment.items_DD}),
        directory / TABLES,
        metadata={MODEL_KEY: fingerprint, DTYPE_KEY: table_dtype},
    )
    give_usual_mode(directory / TABLES)
    save_schema(task.schema, directory / SCHEMA)
    user_map_DD = None if alignment is None else alignment.users_DD
    for name, program in exported_programs(task, width=width, user_map_DD=user_map_DD).items():
        content = BytesIO()  # a full disk would end the process in the midst of torch's own writing
        torch.export.save(program, content)
        (directory / name).write_bytes(content.getbuffer())
    manifest = BundleManifest(
        task=task.reads,
        labels=task.layout.labels if isinstance(task, RankingTask) else (),
        schema_fingerprint=task.schema.fingerprint(),
        step=origin.step,
        metrics=dict(origin.metrics),
        versions={name: version(name) for name in _VERSIONED},
        model_fingerprint=fingerprint,
        table_dtype=table_dtype,
        source_run=origin.run,
    )
    if isinstance(task, SequenceTask):
        cut = task.widths[-1] if width is None else width
        manifest = replace(
            manifest,
            sequence=task.key,
            objective=cast(SequenceEncoder, task.encoder).objective,
            max_length=task.max_length,
            item_output=task.item_output,
            width=cut,
            # A turn mixes all numbers: the first ones serve alone no longer.
            prefix_widths=tuple(sorted(w for w in task.prefix_widths if w < cut))
            if alignment is None
            else (),
            compatible_with=None if alignment is None else alignment.to_content(),
        )
    write_manifest(directory, manifest)
    sizes = {name: sum(tensor.nbytes for _, tensor in found) for name, found in tables.items()}
    return Written(manifest, sizes)


def _item_bias(task: Task) -> dict[str, torch.Tensor]:
    """What is added to the score of each item, where the encoder has such a thing."""
    bias_V = task.encoder.item_bias_V if isinstance(task, SequenceTask) else None
    return {} if bias_V is None else {ITEM_BIAS: bias_V.detach().contiguous()}


def model_fingerprint(task: Task) -> str:
    """SHA-256 of all numbers of a trained task, whatever they are stored as later."""
    digest = hashlib.sha256()
    for name, tensor in sorted(task.state_dict().items()):
        if not name.startswith("metrics."):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
