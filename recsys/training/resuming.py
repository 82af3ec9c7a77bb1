"""Which checkpoint a run goes on from by itself, and which settings it may not change then."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from features.errors import CheckpointMismatchError, RunConfigError
from features.spec import FeatureSet
from recsys.checkpoint import read_manifest, read_schema
from recsys.checkpoint_sums import SUMS, check_sums
from recsys.training.run import is_first_process

_log = logging.getLogger(__name__)

# What a checkpoint's place in the data and its optimiser's state hang on: with other settings
# rows would be read twice or never, or the settings would not be heeded.
_KEPT = (
    *("seed_everything", "data.batch_size", "data.num_lanes", "data.window_step"),
    *("model.init_args.optimizer", "model.init_args.scheduler"),
    "model.init_args.tables.weight_decay",
)
# How steps are computed, not which; another machine may choose otherwise.
_IMPLEMENTATION = {"capturable", "differentiable", "foreach", "fused"}


def resumed_checkpoint(directory: Path, *, ckpt_path: str | None) -> str | None:
    """The checkpoint that `run.resume: auto` goes on from; None: training starts anew.

    Args:
        directory: Of the run.
        ckpt_path: What the person has asked for besides.

    Raises:
        RunConfigError: it was asked for one besides.
    """
    if ckpt_path is not None:
        raise RunConfigError(
            f"run.resume: finds the checkpoint itself, got auto and ckpt_path {ckpt_path!r}; "
            f"drop one of them"
        )
    found = newest_whole(directory)
    _tell(
        f"{directory}: no whole checkpoint, so training starts anew"
        if found is None
        else f"{directory}: training goes on from {found.name}, step {read_manifest(found).step}"
    )
    return None if found is None else str(found)


def check_resumed(checkpoint: Path, config: Mapping[str, Any], feature_set: FeatureSet) -> None:
    """Refuse settings that a resumed run cannot take.

    Args:
        checkpoint: To be resumed.
        config: All settings of the present command, as the checkpoint keeps those of its own.
        feature_set: The present feature file.

    Raises:
        CheckpointMismatchError: names all that differ, or the run has not begun.
    """
    manifest = read_manifest(checkpoint)
    if manifest.step == 0:
        # Its learning rate may be that of the end of a schedule.
        raise CheckpointMismatchError(
            f"{checkpoint}: is of a training that has not begun, as `migrate` makes it, got step "
            f"0; allowed 1 and more; begin another run with `run.continue_from: {checkpoint}`"
        )
    found = list(_differences(config, manifest.config)) if manifest.config else []
    label = _labels(read_schema(checkpoint).feature_set)
    if label != _labels(feature_set):
        found.append(("label", _labels(feature_set), label))
    if found:
        raise CheckpointMismatchError(
            f"{setting}: differs from the run that is resumed, got {got}; allowed {allowed}; "
            f"correct it, or train on with other settings under another run.name, by "
            f"`run.continue_from: {checkpoint}`"
            for setting, got, allowed in found
        )


def _differences(
    now: Mapping[str, Any], before: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    for key in _KEPT:
        flat = [dict(_flat(key, _at(key, config))) for config in (now, before)]
        kind = f"{key}.class_path"
        places = [kind] if len({each.get(kind) for each in flat}) > 1 else sorted(flat[0] | flat[1])
        for place in places:
            got, allowed = (each.get(place) for each in flat)
            if got != allowed and place.rpartition(".")[2] not in _IMPLEMENTATION:
                yield place, _said(got), _said(allowed)


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _labels(feature_set: FeatureSet) -> str:
    return ", ".join(str(label.model_dump(exclude_none=True)) for label in feature_set.label)


def _at(key: str, config: Any) -> Any:
    """A setting, by the names that lead to it; None where it is left out."""
    for name in key.split("."):
        config = (config or {}).get(name)
    return config


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The settings below one, each by its whole name."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _flat(f"{key}.{name}", below)
    else:
        yield key, value


def newest_whole(directory: Path, *, before_step: int | None = None) -> Path | None:
    """The checkpoint of the most steps that is whole; damaged ones are named and passed over.

    It may be one whose writing was cut off behind its last byte, `.partial`, or while it was being
    replaced, `.old`. Nothing is changed, so that all ranks find the same.

    Args:
        directory: Of the run.
        before_step: Only checkpoints of fewer steps count. None: all do.
    """
    found: list[tuple[int, bool, Path]] = []
    for path in sorted((directory / "checkpoints").glob("*.ckpt*")):
        has_final_name = path.suffix == ".ckpt"
        # The hashes are written last: without them the writing was cut off.
        if not (path / ("manifest.json" if has_final_name else SUMS)).is_file():
            continue
        try:
            step = read_manifest(path).step
        except CheckpointMismatchError as error:
            _tell(f"passed over: {error}")
            continue
        if before_step is None or step < before_step:
            found.append((step, has_final_name, path))
    for _, _, path in sorted(found, reverse=True):
        try:
            check_sums(path)
        except CheckpointMismatchError as error:
            _tell(f"passed over: {error}")
            continue
        return path
    return None


def _tell(message: str) -> None:
    if is_first_process():
        _log.info(message)
