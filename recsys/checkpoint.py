"""Checkpoints: a directory with every rank's tensors (torch.distributed.checkpoint) and a manifest.

    manifest.json   what it is: step, epoch, data position, schema fingerprint, tables, versions
    schema/         the fitted feature schema
    trainer.pt      state of loops, callbacks and schedulers, small and the same on every rank
    .metadata, *.distcp   tensors, under `model.`, `fused.` and `dense.` names
    sums.json       a hash of every file, by which damage is found before anything is read

It can be read whole on one process without a process group, whatever wrote it.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from features.errors import CheckpointMismatchError, OutputError, RunConfigError
from features.permissions import refused_by_name
from features.schema import FeatureSchema
from features.storage import load_schema, save_schema
from recsys.checkpoint_sums import MEND as _MEND
from recsys.checkpoint_sums import check_sums, write_part, write_sums

FORMAT = 1
MODEL, FUSED, DENSE = "model.", "fused.", "dense."
_PARTIAL, _OLD = ".partial", ".old"
_VERSIONED = ("torch", "torchrec", "lightning")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds, readable without torch.

    Attributes:
        step: Optimiser steps taken.
        epoch: Epoch in progress.
        batch_in_epoch: Batches of it already used.
        schema_fingerprint: Of the schema beside it.
        config: The run's configuration, as JSON.
        metrics: Last logged values.
        tables: Rows and width of every physical table.
        row_meanings: By logical table: what decides which rows an id reaches.
        data_fingerprint: Of the raw files it was trained on; empty where it is not known.
        versions: Of the libraries that wrote it.
        format: Version of this layout.
    """

    step: int
    epoch: int
    batch_in_epoch: int
    schema_fingerprint: str
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    row_meanings: Mapping[str, Any] = field(default_factory=dict)
    data_fingerprint: str = ""
    versions: Mapping[str, str] = field(
        default_factory=lambda: {name: version(name) for name in _VERSIONED}
    )
    format: int = FORMAT


def write_checkpoint(
    directory: Path,
    *,
    tensors: Mapping[str, Any],
    trainer: Mapping[str, Any],
    manifest: Manifest,
    schema: FeatureSchema,
) -> None:
    """Write a checkpoint; every rank calls it. It appears under its name only when complete.

    Args:
        directory: Where it is to lie; one that is there is replaced.
        tensors: By name; sharded ones are written by the ranks that have them.
        trainer: Whatever else the trainer needs to go on.
        manifest: Describes it.
        schema: The schema it was trained under.

    Raises:
        OutputError: it cannot be written; the one that was there is kept, and nothing of this one.
    """
    partial = directory.with_name(directory.name + _PARTIAL)
    with _all_or_none(partial, directory=directory):
        if _rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    with _all_or_none(partial, directory=directory), alone_without_warning():
        dcp.save(
            dict(tensors),
            storage_writer=FileSystemWriter(partial),
            no_dist=not dist.is_initialized(),
        )
        write_part(partial, rank=_rank())
    with _all_or_none(partial, directory=directory):
        if _rank() == 0:
            torch.save(dict(trainer), partial / "trainer.pt")
            save_schema(schema, partial / "schema")
            (partial / "manifest.json").write_text(json.dumps(asdict(manifest), indent=2) + "\n")
            write_sums(partial)
            _replace(partial, directory)


@refused_by_name(RunConfigError)
def find_checkpoint(
    run: Path, *, which: Literal["best", "last"] | None = None, where: str = "RUN"
) -> Path:
    """A checkpoint of a run, or the checkpoint itself.

    Args:
        run: Folder of a run, or of a checkpoint.
        which: Of a run. None: the best one, or else the last.
        where: What messages call the folder.

    Raises:
        RunConfigError: there is none.
    """
    names = [which] if which else ["best", "last"]
    candidates = [run / "checkpoints" / f"{name}.ckpt" for name in names]
    for candidate in [*candidates, *([] if which else [run])]:
        if (candidate / "manifest.json").is_file():
            return candidate
    raise RunConfigError(
        f"{where}: has no checkpoint, got {run}; allowed the folder of a run with "
        f"checkpoints/{names[0]}.ckpt, or of a checkpoint; train first with "
        f"`python train.py fit -c ...`"
    )


def recovered(directory: Path) -> Path:
    """Give a whole checkpoint its final name, if its writing was cut off before that.

    Every rank calls it, after all have found the checkpoint.

    Args:
        directory: The checkpoint, which may end in `.partial` or `.old`.
    """
    final = directory.with_suffix("") if directory.suffix in (_PARTIAL, _OLD) else directory
    if final == directory:
        return directory
    _barrier()
    if _rank() == 0:
        if directory.suffix == _PARTIAL:
            _replace(directory, final)
        else:
            shutil.rmtree(final, ignore_errors=True)  # damaged, for else it had been found
            directory.rename(final)
    _barrier()
    return final


@refused_by_name(CheckpointMismatchError)
def read_manifest(directory: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        CheckpointMismatchError: there is no checkpoint there, or one of a newer layout.
    """
    file = directory / "manifest.json"
    if not file.is_file():
        raise CheckpointMismatchError(
            f"{directory}: is no checkpoint, got no manifest.json in it; give the directory of a "
            f"checkpoint, such as runs/NAME/checkpoints/last.ckpt"
        )
    try:
        fields = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointMismatchError(f"{file}: is damaged, got {error}; {_MEND}") from None
    if fields.get("format") != FORMAT:
        raise CheckpointMismatchError(
            f"{directory}: unknown checkpoint format, got {fields.get('format')}; allowed "
            f"{FORMAT}; read it with the version that wrote it: {fields.get('versions')}"
        )
    try:
        fields["tables"] = {name: tuple(size) for name, size in fields["tables"].items()}
        return Manifest(**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointMismatchError(f"{file}: is damaged, got {error!r}; {_MEND}") from None


def read_schema(directory: Path) -> FeatureSchema:
    """The schema a checkpoint was trained under."""
    return load_schema(directory / "schema")


def read_trainer_state(directory: Path) -> dict[str, Any]:
    """What the trainer needs to go on.

    Raises:
        CheckpointMismatchError: the checkpoint is damaged.
    """
    check_sums(directory)
    return torch.load(directory / "trainer.pt", weights_only=True)


def load_tensors(directory: Path, tensors: Mapping[str, Any]) -> None:
    """Fill tensors in place from a checkpoint, resharding as needed; every rank calls it.

    Args:
        directory: The checkpoint.
        tensors: By the names they were saved under.

    Raises:
        CheckpointMismatchError: names or shapes differ; all differences are listed.
    """
    check_shapes(directory, tensors)
    _load(directory, tensors)


def load_fitting(directory: Path, tensors: Mapping[str, Any]) -> list[str]:
    """Fill in place those tensors that a checkpoint has in their shape; every rank calls it.

    Args:
        directory: The checkpoint.
        tensors: By the names they were saved under.

    Returns:
        The names of the others.
    """
    saved = {name: tuple(meta.size) for name, meta in _tensor_metadata(directory).items()}
    fitting = {n: t for n, t in tensors.items() if saved.get(n) == tuple(t.size())}
    _load(directory, fitting)
    return [name for name in tensors if name not in fitting]


def tensor_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Sizes of all tensors of a checkpoint, by name."""
    return {name: tuple(meta.size) for name, meta in _tensor_metadata(directory).items()}


def read_tensors(directory: Path, prefix: str) -> dict[str, Tensor]:
    """Whole tensors of a checkpoint under a prefix, by the rest of their name; no process group.

    Args:
        directory: The checkpoint.
        prefix: One of `MODEL`, `FUSED`, `DENSE`.
    """
    whole = {
        name: torch.empty(meta.size, dtype=meta.properties.dtype)
        for name, meta in _tensor_metadata(directory).items()
        if name.startswith(prefix)
    }
    with alone_without_warning(), reading(directory):
        dcp.load(dict(whole), storage_reader=FileSystemReader(directory), no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in whole.items()}


def check_shapes(directory: Path, tensors: Mapping[str, Any]) -> None:
    """Compare names and shapes with those of a checkpoint.

    Raises:
        CheckpointMismatchError: they differ; all differences are listed.
    """
    saved = {
        name: tuple(meta.size)
        for name, meta in _tensor_metadata(directory).items()
        if any(name.startswith(_prefix(wanted)) for wanted in tensors)
    }
    wanted = {name: tuple(tensor.size()) for name, tensor in tensors.items()}
    mistakes = [
        f"{directory}: {name}: is of another shape, got {list(saved[name])} in the checkpoint; "
        f"the model has {list(shape)}"
        for name, shape in wanted.items()
        if name in saved and saved[name] != shape
    ]
    mistakes += [
        f"{directory}: {name}: is not in the checkpoint" for name in wanted.keys() - saved.keys()
    ]
    mistakes += [
        f"{directory}: {name}: is not in the model" for name in saved.keys() - wanted.keys()
    ]
    if mistakes:
        mistakes.append("take the configuration and feature file the checkpoint was made with")
        raise CheckpointMismatchError(mistakes)


def _load(directory: Path, tensors: Mapping[str, Any]) -> None:
    with reading(directory):
        dcp.load(
            dict(tensors),
            storage_reader=FileSystemReader(directory),
            no_dist=not dist.is_initialized(),
        )


def _prefix(name: str) -> str:
    return name[: name.index(".") + 1]


def _tensor_metadata(directory: Path) -> dict[str, TensorStorageMetadata]:
    check_sums(directory)
    with reading(directory):
        metadata = FileSystemReader(directory).read_metadata().state_dict_metadata
    return {k: v for k, v in metadata.items() if isinstance(v, TensorStorageMetadata)}


def _replace(partial: Path, directory: Path) -> None:
    """Put a complete directory in the place of an older one."""
    if directory.is_symlink():
        directory.unlink()
    elif directory.exists():
        old = directory.with_name(directory.name + _OLD)
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        partial.rename(directory)
        shutil.rmtree(old, ignore_errors=True)  # what somebody reads may stay a while
        return
    partial.rename(directory)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def _all_or_none(partial: Path, *, directory: Path) -> Iterator[None]:
    """A stage of writing that fails on all ranks where it fails on one, and is cleared away."""
    cause = failure = None
    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:  # torch raises RuntimeErrors
        cause, failure = error, _reason(error)
    failures = [failure]
    if dist.is_initialized():
        failures = [None] * dist.get_world_size()
        dist.all_gather_object(failures, failure)
    reason = next((each for each in failures if each is not None), None)
    if reason is None:
        return
    if _rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
    kept = f"the one of step {read_manifest(directory).step} is kept" if directory.exists() else ""
    raise OutputError(
        f"{directory}: cannot be written, got {reason}; {kept or 'there was none before'}; mend "
        f"that, such as by making room on the disk, and go on with --run.resume auto"
    ) from cause


def _reason(error: BaseException) -> str:
    """What an error says, in a line; of several ranks that of the first."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    while error.__cause__ is not None or isinstance(error.__context__, OSError):
        error = error.__cause__ or error.__context__ or error
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Turn what reading damaged files raises into a `CheckpointMismatchError`."""
    try:
        yield
    except (OSError, UnpicklingError, EOFError, CheckpointException) as error:
        causes = error.failures if isinstance(error, CheckpointException) else {}
        reason = next((str(cause) for cause, _ in causes.values()), str(error))
        raise CheckpointMismatchError(
            f"{directory}: files are missing or damaged, got {' '.join(reason.split())}; {_MEND}"
        ) from error


@contextmanager
def alone_without_warning() -> Iterator[None]:
    """No warning where there is no process group.

    Without a process group is how export reads; torch warns of it each time.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
