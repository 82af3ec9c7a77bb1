"""Which fields describe the target, which columns its history, and which are context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from features.errors import FeatureConfigError
from features.table_spec import ROLES, Role, role_key
from recsys.nn.segments import Segment, input_segments
from recsys.types import Embedded, FieldLayout


@dataclass(frozen=True)
class HistoryColumns:
    """The parts of `Embedded` that a history ranker reads.

    Attributes:
        names: Features that the history's events and the target have.
        sequence: The history.
        of_role: Widths by key of a history's column, in each role.
        context_keys: All other fields.
        context_width: Width of these and of the dense features.
        context_segments: What that is made of.
    """

    names: tuple[str, ...]
    sequence: str
    of_role: Mapping[Role, Mapping[str, int]]
    context_keys: tuple[str, ...]
    context_width: int
    context_segments: tuple[Segment, ...] = ()

    @classmethod
    def of(cls, layout: FieldLayout, *, where: str) -> Self:
        """Find them.

        Args:
            layout: Of the feature file.
            where: Name of the model, for the message.

        Raises:
            FeatureConfigError: there is not one history, or no target for one of its columns.
        """
        keys = [key.partition("@")[0] for key in layout.sequences]
        sequences = list(dict.fromkeys(key.partition(".")[0] for key in keys))
        if len(sequences) != 1:
            raise FeatureConfigError(
                f"features: {where} reads one history, got {', '.join(sequences) or 'none'}; "
                f"add a feature `{{kind: sequence, of: [...], pooling: none}}`, and give any other "
                f"sequence `pooling: mean`"
            )
        names = tuple(dict.fromkeys(key.partition(".")[2] for key in keys))
        targets = {key.partition("@")[0] for key in layout.fields}
        missing = [name for name in names if name not in targets]
        if missing:
            raise FeatureConfigError(
                f"features.{sequences[0]}.of: the target is described by the same features as its "
                f"history, got no field {', '.join(missing)}; add it to the features"
            )
        columns = [f"{sequences[0]}.{name}" for name in names]
        of_role: dict[Role, list[str]] = {
            role: [_in(layout.sequences, key, role) for key in columns] for role in ROLES
        }
        used = {_in(layout.fields, name, role) for name in names for role in ROLES}
        context = tuple(key for key in layout.fields if key not in used)
        return cls(
            names=names,
            sequence=sequences[0],
            of_role={r: {k: layout.sequences[k] for k in keys} for r, keys in of_role.items()},
            context_keys=context,
            context_width=sum(layout.fields[key] for key in context) + layout.num_dense,
            context_segments=tuple(s for s in input_segments(layout) if s.of[0] not in used),
        )

    @property
    def is_decoupled(self) -> bool:
        """Whether some column has vectors of its own for attention."""
        return self.events("attention") != self.events("representation")

    @property
    def columns(self) -> list[str]:
        """Keys of the history's columns in a batch."""
        return [f"{self.sequence}.{name}" for name in self.names]

    def events(self, role: Role) -> list[str]:
        """Keys of the history's columns."""
        return list(self.of_role[role])

    def widths(self, role: Role) -> list[int]:
        """Widths of the history's columns, and of the target's fields."""
        return list(self.of_role[role].values())

    def targets(self, role: Role) -> list[str]:
        """Keys of the target's fields, in the order of the columns."""
        return [key.removeprefix(f"{self.sequence}.") for key in self.events(role)]

    def context(self, embedded: Embedded) -> list[Tensor]:
        """What else is known of the example."""
        parts = [embedded.fields[key] for key in self.context_keys]
        return [*parts, embedded.dense_BN]


def _in(keys: Mapping[str, int], key: str, role: Role) -> str:
    """The key in a role: with it, where the table is decoupled."""
    return role_key(key, role) if role_key(key, role) in keys else key
