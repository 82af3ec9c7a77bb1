"""Border types of the engine, and the one legend of shape letters.

B examples on this rank · F fields · D embedding width · C concatenated width · N dense numbers ·
T labels · L tokens of all sequences of a batch, packed · K candidates or top-k · V table rows ·
H attention heads. A name ends in its shape: `dense_BN` is (B, N), `lengths_B` is (B,).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Self

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass
class Batch:
    """What a step reads. All ids are encoded ids, not table rows.

    Attributes:
        ids: Keyed by feature: one or several ids per example; None where no feature is embedded.
        sequences: Keyed by `sequence.of`: ids of earlier events, oldest first;
            `sequence.of.@count`: ids of each event, where there may be other than one;
            `sequence.@time`: seconds of these events, then of the question. None where unused.
        dense_BN: Dense and vector features, in the order of the feature file.
        labels_BT: 0 or 1.
        weights_B: Weight in the loss; 0 marks a row that only fills up the batch.
        users_B: History row of the example's user, -1 where there is no user column.
        targets_B: Item id that a sequence model is to rank first; empty for rankers.
        seen_values: Item ids that a ranking over the catalogue leaves out, packed.
        seen_lengths_B: Their number per example; empty for rankers.
        histories_B: Which entry of `sequences` is the example's. Examples may share one; entries
            that belong to none are empty, the last ones. None: each has its own.
    """

    ids: KeyedJaggedTensor | None
    sequences: KeyedJaggedTensor | None
    dense_BN: Tensor
    labels_BT: Tensor
    weights_B: Tensor
    users_B: Tensor
    targets_B: Tensor
    seen_values: Tensor
    seen_lengths_B: Tensor
    histories_B: Tensor | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """Copy to a device."""
        moved = {}
        for item in fields(self):
            value = getattr(self, item.name)
            moved[item.name] = (
                None if value is None else value.to(device, non_blocking=non_blocking)
            )
        return type(self)(**moved)

    def pin_memory(self) -> Self:
        """Copy to page-locked memory."""
        pinned = {}
        for item in fields(self):
            value = getattr(self, item.name)
            pinned[item.name] = None if value is None else value.pin_memory()
        return type(self)(**pinned)

    def record_stream(self, stream: torch.cuda.streams.Stream) -> None:
        """Keep the memory until the stream is done with it."""
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None:
                value.record_stream(stream)

    def __len__(self) -> int:
        """B."""
        return self.weights_B.shape[0]


@dataclass(frozen=True)
class Jagged:
    """Sequences of different lengths, packed end to end without padding.

    Attributes:
        values_LD: One row per token, sequence after sequence.
        lengths_B: Tokens of each sequence; their sum is L.
    """

    values_LD: Tensor
    lengths_B: Tensor


@dataclass(frozen=True)
class History:
    """What a sequence encoder reads: a token per event.

    Attributes:
        items_LD: Vector of each event's item, packed, oldest first.
        lengths_B: Tokens of each history; their sum is L.
        sides: Vectors (L, width) of the other columns of the sequence, by key.
        times_L: Second at which each event happened; None where the feature file gives no times.
        asked_at_L: Second for which each token's prediction is made: that of the event after it.
    """

    items_LD: Tensor
    lengths_B: Tensor
    sides: Mapping[str, Tensor] = field(default_factory=dict)
    times_L: Tensor | None = None
    asked_at_L: Tensor | None = None


@dataclass(frozen=True)
class Embedded:
    """What a model reads.

    Attributes:
        fields: One vector per example, keyed by feature, in the order of the feature file.
        sequences: Keyed by `sequence.of`.
        dense_BN: Dense and vector features.
        ages: How many events ago each event was, packed, by name of the sequence, where some events
            of a history have been left out.
        histories_B: Which entry of `sequences` is the example's; None: each has its own.
    """

    fields: Mapping[str, Tensor]
    sequences: Mapping[str, Jagged]
    dense_BN: Tensor
    ages: Mapping[str, Tensor] = field(default_factory=dict)
    histories_B: Tensor | None = None

    def concatenated_BC(self) -> Tensor:
        """All fields, then the dense features, side by side."""
        parts = [*self.fields.values()]
        if self.dense_BN.shape[1]:
            parts.append(self.dense_BN)
        return torch.cat(parts, dim=1)

    def stacked_BFD(self) -> Tensor:
        """All fields as one tensor; they must be of one width (`FieldLayout.common_width`)."""
        return torch.stack(list(self.fields.values()), dim=1)


@dataclass(frozen=True)
class FieldLayout:
    """The widths a model is built for; it follows from the feature file.

    Attributes:
        fields: Width of each field, in the order of `Embedded.fields`.
        sequences: Width of each sequence.
        max_lengths: Most tokens each sequence has.
        dense: Width of each dense and vector feature, in the order of `Embedded.dense_BN`.
        labels: Names of the targets.
        num_items: Ids of the catalogue, the out-of-vocabulary id 0 included; 0 where there is none.
        has_times: Whether a sequence model is told when events happened.
    """

    fields: Mapping[str, int]
    sequences: Mapping[str, int]
    dense: Mapping[str, int]
    labels: tuple[str, ...]
    max_lengths: Mapping[str, int] = field(default_factory=dict)
    num_items: int = 0
    has_times: bool = False

    @property
    def num_dense(self) -> int:
        """N: all dense and vector features side by side."""
        return sum(self.dense.values())

    @property
    def width(self) -> int:
        """C: all fields and dense features side by side."""
        return sum(self.fields.values()) + self.num_dense

    def common_width(self, model: str) -> int:
        """D, for models whose interactions need fields of one width.

        Args:
            model: Who asks, for the message.

        Raises:
            ValueError: the fields differ in width, or there is none.
        """
        widths = sorted(set(self.fields.values()))
        if len(widths) != 1:
            each = ", ".join(f"{name}: {width}" for name, width in self.fields.items())
            raise ValueError(
                f"{model}: needs all fields of one width, got {each or 'no field'}; "
                f"set one `dim` in the feature file, or take a model that concatenates (DCNv2)"
            )
        return widths[0]
