"""Two synchronised copies of what a ranker reads: one for attention, one for representation.

On tables that both roles share, a gradient is the sum of what the two want. A copy of the looked-up
vectors for each role tells them apart, and changes nothing of the forward pass or of training,
since the gradients of the copies add up to that of the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from features.columns import sequence_column
from features.table_spec import ROLES, Role, role_key
from models.history_ranker import HistoryRanker
from recsys.nn.history_columns import HistoryColumns
from recsys.tables.embedder import Embedder
from recsys.types import Batch, Embedded


@dataclass(frozen=True)
class CopiedColumns(HistoryColumns):
    """Columns of which each role has a key of its own, whether or not it has its own table.

    Attributes:
        has_ages_by_role: Whether the ranker's vectors of ages are decoupled; they are not copied.
    """

    has_ages_by_role: bool = False

    @classmethod
    def of_columns(cls, columns: HistoryColumns) -> Self:
        """With the role in every key."""
        return cls(
            names=columns.names,
            sequence=columns.sequence,
            of_role={
                role: {_copy_key(key, role): width for key, width in columns.of_role[role].items()}
                for role in ROLES
            },
            context_keys=columns.context_keys,
            context_width=columns.context_width,
            has_ages_by_role=columns.is_decoupled,
        )

    @property
    def is_decoupled(self) -> bool:
        """Whether ages are."""
        return self.has_ages_by_role


def read_copies(ranker: HistoryRanker) -> HistoryColumns:
    """Let a ranker read copies; give the columns that it read so far.

    Args:
        ranker: Is changed.
    """
    columns = ranker.columns
    ranker.columns = CopiedColumns.of_columns(columns)
    return columns


def copied(embedded: Embedded, columns: HistoryColumns) -> Embedded:
    """What a ranker reads after `read_copies`; the copies keep their gradients.

    Args:
        embedded: What was looked up, with gradient.
        columns: Those of the ranker before.
    """
    fields, sequences = dict(embedded.fields), dict(embedded.sequences)
    for role in ROLES:
        for target, events in zip(columns.targets(role), columns.events(role), strict=True):
            history = embedded.sequences[events]
            key = _copy_key(events, role)
            sequences[key] = replace(history, values_LD=_copy(history.values_LD))
            fields[_copy_key(target, role)] = _copy(embedded.fields[target])
    return replace(embedded, fields=fields, sequences=sequences)


@dataclass(frozen=True)
class RoleGradient:
    """Gradients of the ids of a batch, in one column of the history.

    Attributes:
        ids_U: Distinct ids.
        attention_UD: Of the loss, by the vector that attention reads.
        representation_UD: By the other one.
    """

    ids_U: Tensor
    attention_UD: Tensor
    representation_UD: Tensor


def role_gradients(
    embedded: Embedded, batch: Batch, columns: HistoryColumns, embedder: Embedder
) -> dict[str, RoleGradient]:
    """Sum the gradients of copies by id, after the backward pass.

    Targets and events are one where they read one table; else only events count. Columns whose
    events have several ids are left out.

    Args:
        embedded: The copies.
        batch: What was looked up.
        columns: Those of the ranker before it read copies.
        embedder: Knows the tables.
    """
    assert batch.ids is not None
    assert batch.sequences is not None
    found = {}
    for number, name in enumerate(columns.names):
        target, events = columns.targets("attention")[number], columns.events("attention")[number]
        if embedder.readers[target].is_multi_valued:
            continue
        ids = [batch.sequences[sequence_column(columns.sequence, name)].values()]
        if embedder.scheme_of[target] == embedder.scheme_of[events]:
            ids.append(batch.ids[name].values())
        ids_U, place = torch.cat(ids).unique(return_inverse=True)
        sums = []
        for role in ROLES:
            gradient = torch.cat(_gradients(embedded, columns, number, role)[: len(ids)])
            zeros = gradient.new_zeros(len(ids_U), gradient.shape[1])
            sums.append(zeros.index_add(0, place, gradient))
        found[name] = RoleGradient(ids_U, *sums)
    return found


def _gradients(
    embedded: Embedded, columns: HistoryColumns, number: int, role: Role
) -> tuple[Tensor, Tensor]:
    """Of the events and of the targets of a column."""
    events = embedded.sequences[_copy_key(columns.events(role)[number], role)].values_LD
    target = embedded.fields[_copy_key(columns.targets(role)[number], role)]
    found = [torch.zeros_like(x) if x.grad is None else x.grad for x in (events, target)]
    return found[0], found[1]


def _copy(vectors: Tensor) -> Tensor:
    copy = vectors.view_as(vectors)
    copy.retain_grad()
    return copy


def _copy_key(key: str, role: Role) -> str:
    return key if "@" in key else role_key(key, role)
