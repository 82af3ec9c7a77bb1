"""Which inputs the numbers of a layer belong to, so that they can follow them to an edited file.

A parameter or buffer whose shape follows from the layout is labelled: for each axis the segments
that it is made of, each named after the fields or dense features that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from recsys.types import FieldLayout

ITEMS = "@items"
"""Segment of a number per item id: it follows the ids of the catalogue."""

_LABEL = "@label."
_LABELS, _KEYS = "_segment_labels", "_segment_keys"
_KEY = "="


@dataclass(frozen=True)
class Segment:
    """Neighbouring numbers of an axis that mean the same thing before and after an edit.

    Attributes:
        of: What they stand for, in any order: keys of `FieldLayout`, and what the model makes of
            them, which starts with an @.
        width: How many they are; where it changes, the leading ones stay.
    """

    of: tuple[str, ...]
    width: int


@dataclass(frozen=True)
class Axis:
    """The segments of one axis, in order.

    Attributes:
        segments: Their widths add up to the size of the axis.
        new: What numbers of a segment that was not there before start as: `zero` where a layer
            reads it, so that what the layer computes does not change; else as in a new model.
    """

    segments: tuple[Segment, ...]
    new: Literal["zero", "fresh"]

    @property
    def width(self) -> int:
        """Size of the axis."""
        return sum(segment.width for segment in self.segments)


Axes = tuple[Axis | None, ...]
"""Of a tensor; None for an axis whose size does not follow from the layout."""


def reads(segments: Iterable[Segment]) -> Axis:
    """The axis of what a layer reads."""
    return Axis(tuple(segments), "zero")


def gives(segments: Iterable[Segment]) -> Axis:
    """The axis of what a layer gives, or of numbers that belong to no input of it."""
    return Axis(tuple(segments), "fresh")


def label(module: nn.Module, name: str, *axes: Axis | None) -> None:
    """Say what the axes of a tensor are made of.

    Args:
        module: Has the tensor.
        name: Of the parameter or buffer.
        axes: One for each axis; None where its size does not follow from the layout.
    """
    shape = getattr(module, name).shape
    assert len(axes) == len(shape), f"{name} has {len(shape)} axes"
    for axis, size in zip(axes, shape, strict=True):
        assert axis is None or axis.width == size, f"{name}: segments of {axis}, size {size}"
    module.__dict__.setdefault(_LABELS, {})[name] = axes


def label_linear(layer: nn.Module, *, reads: Axis | None = None, gives: Axis | None = None) -> None:
    """Label a linear layer.

    Args:
        layer: An `nn.Linear`.
        reads: Its input; None where that does not follow from the layout.
        gives: Its output, likewise.
    """
    assert isinstance(layer, nn.Linear)
    label(layer, "weight", gives, reads)
    if layer.bias is not None and gives is not None:
        label(layer, "bias", gives)


def label_norm(layer: nn.Module, segments: Sequence[Segment]) -> None:
    """Label a batch norm over an input."""
    assert isinstance(layer, nn.BatchNorm1d)
    for name in ("weight", "bias", "running_mean", "running_var"):
        label(layer, name, gives(segments))


def name_after(container: nn.Module, keys: Mapping[str, str]) -> None:
    """Say which children of a container are named after a key of the layout.

    Args:
        container: A module or dictionary of modules or parameters.
        keys: By name of the child.
    """
    container.__dict__[_KEYS] = dict(keys)


def labels_of(module: nn.Module) -> dict[str, Axes]:
    """All labels within a module, by name in its state."""
    return {
        _joined(prefix, name): axes
        for prefix, child in module.named_modules()
        for name, axes in child.__dict__.get(_LABELS, {}).items()
    }


def paths_of(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """The path of everything in a module's state, by name; keys of the layout start with `=`."""
    modules = dict(module.named_modules())
    return {name: _path(name, modules) for name in module.state_dict(keep_vars=True)}


def path_with_keys(path: tuple[str, ...], keys: Mapping[str, str]) -> tuple[str, ...]:
    """A path with other keys of the layout; one that is not among them leads nowhere."""
    return tuple(
        _KEY + keys.get(part.removeprefix(_KEY), "") if part.startswith(_KEY) else part
        for part in path
    )


def input_segments(layout: FieldLayout) -> tuple[Segment, ...]:
    """What `Embedded.concatenated_BC` gives: all fields, then the dense features."""
    return tuple(Segment((key,), width) for key, width in {**layout.fields, **layout.dense}.items())


def dense_segments(layout: FieldLayout) -> tuple[Segment, ...]:
    """What `Embedded.dense_BN` holds."""
    return tuple(Segment((name,), width) for name, width in layout.dense.items())


def label_segments(layout: FieldLayout) -> tuple[Segment, ...]:
    """A logit per label."""
    return tuple(Segment((_LABEL + name,), 1) for name in layout.labels)


def is_of_labels(axis: Axis) -> bool:
    """Whether an axis has a number per label."""
    return any(key.startswith(_LABEL) for segment in axis.segments for key in segment.of)


def _path(name: str, modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    parts = name.split(".")
    found = []
    for place, part in enumerate(parts):
        parent = modules.get(".".join(parts[:place]))
        keys = parent.__dict__.get(_KEYS, {}) if parent is not None else {}
        found.append(_KEY + keys[part] if part in keys else part)
    return tuple(found)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
