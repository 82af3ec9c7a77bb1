"""Layers whose inputs come and go: the numbers of each input follow it by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys.migration.names import OldNames
from recsys.nn.segments import ITEMS, Axes, Axis, is_of_labels, labels_of, path_with_keys, paths_of

Places = NDArray[np.int64]
"""Of each new number of an axis its old place, -1 where it has none."""

_TABLES = "embedder."
_NEW_SHAPE = "no input explains the new shape"
_NEW_LABELS = "none of the labels was there before"


@dataclass(frozen=True)
class TensorMove:
    """Where the numbers of one tensor of the layers come from.

    Attributes:
        name: In the new state.
        was: In the old one; None where there was no such tensor.
        places: By axis; None: as they were.
        is_zero: By axis, whether numbers without a source start at zero.
    """

    name: str
    was: str | None
    places: tuple[Places | None, ...]
    is_zero: tuple[bool, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is the old tensor as it was."""
        return self.was is not None and all(places is None for places in self.places)

    def apply(self, old: Tensor | None, fresh: Tensor) -> Tensor:
        """The new tensor.

        Args:
            old: The old one, if there was one.
            fresh: What a new model has in its place, or the zeros of an optimiser's state.
        """
        if self.is_whole and old is not None:
            return old.clone()
        found = fresh.clone()
        for axis, (places, is_zero) in enumerate(zip(self.places, self.is_zero, strict=True)):
            if is_zero and places is not None:
                found.index_fill_(axis, torch.from_numpy((places < 0).nonzero()[0]), 0.0)
        if self.was is None or old is None:
            return found
        here, there = [], []
        for axis, places in enumerate(self.places):
            kept = np.arange(found.shape[axis]) if places is None else (places >= 0).nonzero()[0]
            here.append(kept)
            there.append(kept if places is None else places[kept])
        found[np.ix_(*here)] = old[np.ix_(*there)]
        return found


@dataclass(frozen=True)
class LayerPlan:
    """How all tensors beside the tables follow.

    Attributes:
        moves: One for each of the new state.
        dropped: Old names without a successor.
        stuck: Why those that cannot follow begin anew, by new name.
    """

    moves: tuple[TensorMove, ...]
    dropped: tuple[str, ...]
    stuck: Mapping[str, str]


def plan_layers(old: nn.Module, new: nn.Module, *, names: OldNames, items: Places) -> LayerPlan:
    """Find for each tensor beside the tables where its numbers come from.

    Args:
        old: The task of the old schema.
        new: The task of the new one.
        names: Old names by new ones.
        items: Old id of each new item id.
    """
    old_state, new_state = _layers(old), _layers(new)
    old_labels, new_labels = labels_of(old), labels_of(new)
    old_paths = {path: name for name, path in paths_of(old).items()}
    keys = _keys(new, names)
    moves, stuck, used = [], {}, set()
    for name, path in paths_of(new).items():
        if name not in new_state:
            continue
        was = old_paths.get(path_with_keys(path, keys))
        axes = new_labels.get(name, (None,) * new_state[name].dim())
        if was is None:
            moves.append(_new(name, axes))
            continue
        used.add(was)
        move = _move(
            name,
            was,
            axes,
            old_labels.get(was, (None,) * old_state[was].dim()),
            shapes=(tuple(old_state[was].shape), tuple(new_state[name].shape)),
            names=names,
            items=items,
        )
        if isinstance(move, str):
            stuck[name] = move
            moves.append(_new(name, (None,) * new_state[name].dim()))
        else:
            moves.append(move)
    dropped = tuple(name for name in old_state if name not in used)
    return LayerPlan(tuple(moves), dropped, stuck)


def _new(name: str, axes: Axes) -> TensorMove:
    places = tuple(None if axis is None else np.full(axis.width, -1) for axis in axes)
    return TensorMove(name, None, places, tuple(_is_zero(axis) for axis in axes))


def _move(
    name: str,
    was: str,
    axes: Axes,
    old_axes: Axes,
    *,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    names: OldNames,
    items: Places,
) -> TensorMove | str:
    """The move of a tensor that was there before; why not, where it cannot follow."""
    if len(axes) != len(old_axes):
        return _NEW_SHAPE
    found: list[Places | None] = []
    for axis, old_axis, old_size, size in zip(axes, old_axes, *shapes, strict=True):
        if axis is None or old_axis is None:
            if size != old_size:
                return _NEW_SHAPE
            found.append(None)
            continue
        places = axis_places(axis, old_axis, names=names, items=items)
        # Of inputs that come and go the features tell; a label has no name of before.
        if is_of_labels(axis) and (places < 0).all():
            return _NEW_LABELS
        is_same = size == old_size and np.array_equal(places, np.arange(size))
        found.append(None if is_same else places)
    return TensorMove(name, was, tuple(found), tuple(_is_zero(axis) for axis in axes))


def axis_places(new: Axis, old: Axis, *, names: OldNames, items: Places) -> Places:
    """Old place of each number of an axis.

    Args:
        new: Its segments now.
        old: Its segments before.
        names: Old names by new ones.
        items: Old id of each new item id.
    """
    starts, start = {}, 0
    for segment in old.segments:
        starts[frozenset(segment.of)] = (start, segment.width)
        start += segment.width
    found = []
    for segment in new.segments:
        places = np.full(segment.width, -1, dtype=np.int64)
        was = frozenset(names.key(key) for key in segment.of)
        if was in starts:
            first, width = starts[was]
            if segment.of == (ITEMS,):
                places[:] = np.where(items < 0, -1, items + first)
            else:
                kept = min(width, segment.width)
                places[:kept] = first + np.arange(kept)
        found.append(places)
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _is_zero(axis: Axis | None) -> bool:
    return axis is not None and axis.new == "zero"


def _layers(task: nn.Module) -> dict[str, Tensor]:
    state: Mapping[str, Tensor] = task.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if not name.startswith(_TABLES)}


def _keys(task: nn.Module, names: OldNames) -> dict[str, str]:
    """Old keys by new ones, of all that paths are named after."""
    found = {}
    for path in paths_of(task).values():
        for part in path:
            if part.startswith("="):
                key = part.removeprefix("=")
                was = names.key(key)
                if was is not None:
                    found[key] = was
    return found
