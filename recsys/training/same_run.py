"""Whether a command is that of the run whose checkpoint it goes on from, or evaluates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from features.errors import CheckpointMismatchError
from features.spec import FeatureSet
from recsys.checkpoint import read_manifest, read_schema

# A resumed run is the run that it was: with other settings rows would be read twice or never,
# optimisers would not heed them, or the model would be another.
_OF_RUN = (
    *("seed_everything", "data.batch_size", "data.num_lanes", "data.window_step"),
    *("model", "run.start_from", "run.continue_from"),
)
# What a trained model computes hangs on these, also where the sizes of its layers do not.
_OF_MODEL = (
    *("model.class_path", "model.init_args.ranker", "model.init_args.encoder"),
    "model.init_args.item_output",
)
# Where tables lie and how steps are computed; another machine may choose otherwise.
_MACHINE = {"capturable", "compile", "differentiable", "foreach", "fused"}
_MACHINE |= {"dense_max_bytes", "host_memory", "row_dtype", "sharding"}


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
    found = list(_differences(config, manifest.config, keys=_OF_RUN))
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


def check_same_data(checkpoint: Path, data_fingerprint: str) -> None:
    """Refuse to resume a run on other rows than those it has its place in.

    Args:
        checkpoint: To be resumed.
        data_fingerprint: Of the raw files there are now.

    Raises:
        CheckpointMismatchError: they are others.
    """
    before = read_manifest(checkpoint).data_fingerprint
    if before not in ("", data_fingerprint):
        raise CheckpointMismatchError(
            f"{checkpoint}: was trained on other data, got files of fingerprint "
            f"{data_fingerprint[:12]}; allowed {before[:12]}; bring the files back, or train on "
            f"with these under another run.name, by `run.continue_from: {checkpoint}`"
        )


def check_evaluated(checkpoint: Path, config: Mapping[str, Any]) -> None:
    """Refuse to evaluate another model than was trained.

    Args:
        checkpoint: To be evaluated.
        config: All settings of the present command.

    Raises:
        CheckpointMismatchError: names all that differ.
    """
    found = list(_differences(config, read_manifest(checkpoint).config, keys=_OF_MODEL))
    if found:
        raise CheckpointMismatchError(
            f"{setting}: differs from the model of {checkpoint}, got {got}; allowed {allowed}; "
            f"correct it"
            for setting, got, allowed in found
        )


def _differences(
    now: Mapping[str, Any], before: Mapping[str, Any], *, keys: Iterable[str]
) -> Iterator[tuple[str, str, str]]:
    if not before:  # of a checkpoint that no command has written
        return
    flat = [{p: v for key in keys for p, v in _flat(key, _at(key, c))} for c in (now, before)]
    places = [p for p in flat[0] | flat[1] if _is_other(p, *flat)]
    kinds = [p.removesuffix("class_path") for p in places if p.endswith("class_path")]
    for place in places:
        # Of another class all settings are others.
        if not any(place.startswith(kind) and place != f"{kind}class_path" for kind in kinds):
            yield place, _said(flat[0].get(place)), _said(flat[1].get(place))


def _is_other(place: str, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    got, allowed, name = now.get(place), before.get(place), place.rpartition(".")[2]
    # A setting that a class has got since, of this project or of torch.
    is_new = place not in before and place.count(".init_args.") > 1
    if name == "ks" and got and allowed:
        got, allowed = got[-1], allowed[-1]  # the one that picks the best checkpoint
    return got != allowed and not is_new and not _MACHINE & {*place.split(".")}


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
