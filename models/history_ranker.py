"""Rankers that read the user's history with the target in view: one frame, many by a switch.

DARE, TWIN and DIN are settings of it; each has a file of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from features.table_spec import ROLES, Role
from recsys.nn.event_search import EventSearch, HighestScores, NearestCodes, SameValue
from recsys.nn.events import Events
from recsys.nn.history_columns import HistoryColumns
from recsys.nn.history_head import HistoryHead
from recsys.nn.searching_ranker import SearchingRanker
from recsys.nn.segments import (
    Segment,
    gives,
    label,
    label_linear,
    label_segments,
    reads,
)
from recsys.nn.settings import SettingsCheck
from recsys.nn.target_attention import (
    ActivationUnit,
    HashCollisions,
    ScaledDot,
    TargetAttention,
    Uniform,
)
from recsys.types import Embedded, FieldLayout

Attention = Literal["scaled_dot", "activation_unit", "hash_collisions", "uniform"]
Search = Literal["scores", "same_value", "sign_codes", "none"]

_AGE_STD = 0.01
_SIDES = ("target", "events")


class HistoryRanker(SearchingRanker):
    """Searches a history for events that matter to the target, and weighs what they mean.

    The target is described by the fields that the sequence is made of; all other fields and the
    dense features are context. Where these fields read decoupled tables, search and attention read
    one vector of an event, and the other is what the event says.

    Args:
        layout: Widths of the inputs and names of the labels.
        attention: How the target scores an event; `hash_collisions` and `uniform` learn nothing.
        search: Which events it looks at: those of the highest `scores`, those with the `same_value`
            in the last column of the sequence, those with the nearest `sign_codes`, or all.
        top_k: Events that search keeps.
        target_aware: Whether the head also reads the product of target and history.
        auxiliary: Whether a second head, over the whole history, helps in training; attention
            otherwise learns from the kept events alone.
        ages: Whether events know how many events ago they were; attention that learns does, too.
        age_width: Width of the vectors of ages; null for that of the sequence's first column.
        projections: Whether target and events pass a linear layer each, for attention and for
            representation; over all columns, without bias.
        num_bits: Length of a sign code.
        mlp: Widths of the head's layers.
        batch_norm: Whether the head normalises its input over the batch.

    Source: Feng et al., DARE (2025), https://arxiv.org/abs/2410.02604.

    Differs from the paper's code: layers start as torch's do; the target and its user may have
    further fields.
    """

    def __init__(
        self,
        layout: FieldLayout,
        *,
        attention: Attention = "scaled_dot",
        search: Search = "scores",
        top_k: int = 20,
        target_aware: bool = True,
        auxiliary: bool = True,
        ages: bool = True,
        age_width: int | None = None,
        projections: bool = False,
        num_bits: int = 64,
        mlp: tuple[int, ...] = (200, 80),
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        (
            SettingsCheck(type(self).__name__)
            .ranker_layout(layout)
            .one_of("attention", attention, get_args(Attention))
            .one_of("search", search, get_args(Search))
            .at_least("top_k", top_k, 1)
            .at_least("age_width", age_width, 1)
            .at_least("num_bits", num_bits, 1)
            .holds(
                (attention, search) != ("uniform", "scores"),
                "search: scores that are all the same rank no event, got scores with attention "
                "uniform; allowed same_value, sign_codes, none",
            )
            .holds(
                ages or age_width is None,
                f"age_width: events know no ages here, got {age_width}; set ages: true, or leave "
                f"it out",
            )
            .holds(
                not (projections and search == "same_value"),
                "projections: what two layers made of one value is never equal, got true with "
                "search same_value; set projections: false, or another search",
            )
            .widths("mlp", mlp, min_layers=1)
            .done()
        )
        self.columns = HistoryColumns.of(layout, where=type(self).__name__)
        self.equal_columns = self.columns.names[-1:] if search == "same_value" else ()
        self.max_length = layout.max_lengths[self.columns.events("attention")[0]]
        self.target_aware = target_aware
        self._add_ages(age_width if ages else 0)
        self._add_projections(is_wanted=projections)
        self.attention = self._attention(attention)
        self._check_roles(attention)
        self.search = self._search(search, num_bits=num_bits)
        self.top_k = top_k
        width = self._width("representation")
        in_width = self.columns.context_width + (3 if target_aware else 2) * width
        num_labels = len(layout.labels)
        self.head = HistoryHead(in_width, widths=mlp, num_labels=num_labels, batch_norm=batch_norm)
        self.auxiliary_head = (
            HistoryHead(in_width, widths=mlp[:1], num_labels=num_labels, batch_norm=batch_norm)
            if auxiliary
            else None
        )
        self._label(layout)

    def forward(self, embedded: Embedded) -> Tensor:
        """Give logits_BT."""
        history = self._history(embedded)
        return self._logits(embedded, self.head, *self._searched(history))

    def training_logits(self, embedded: Embedded) -> tuple[Tensor, ...]:
        """Give logits_BT, and those of the auxiliary head."""
        history = self._history(embedded)
        logits_BT = self._logits(embedded, self.head, *self._searched(history))
        if self.auxiliary_head is None:
            return (logits_BT,)
        shares_BW = self.attention.shares(history.scores_BW, history.events.is_event_BK)
        return logits_BT, self._logits(embedded, self.auxiliary_head, history.events, shares_BW)

    def kept(self, embedded: Embedded) -> Events:
        """The events that search keeps, best first."""
        return self._searched(self._history(embedded))[0]

    @property
    def max_kept(self) -> int | None:
        """Events of a history that search keeps, at most; None: all."""
        return None if self.search is None else self.top_k

    @torch.no_grad()
    def age_scores_A(self) -> Tensor | None:
        """What age adds to scores of search; None where they are no scaled dot products."""
        is_dot = isinstance(self.search, HighestScores) and isinstance(self.attention, ScaledDot)
        if not is_dot or self.projections:
            return None
        ages_AD = self._ages("attention")
        if ages_AD is None:
            return torch.zeros(self.max_length + 1)
        return self._of_ages(ages_AD)

    def ranks(self, embedded: Embedded) -> tuple[Events, Tensor]:
        """All events, and ranks_BW: search keeps the highest. Attention's scores without search."""
        history = self._history(embedded)
        if self.search is None:
            return history.events, history.scores_BW
        ranks_BW = self.search(
            history.scores_BW, history.target_BD, history.keys_LD, history.events
        )
        return history.events, ranks_BW

    def target(self, embedded: Embedded, role: Role) -> Tensor:
        """The target in a role, (B, D), ages left out."""
        vectors = [embedded.fields[key] for key in self.columns.targets(role)]
        return self._projected(torch.cat(vectors, dim=1), f"target_{role}")

    def packed(self, embedded: Embedded, role: Role) -> Tensor:
        """All events in a role, (L, D), ages left out."""
        vectors = [embedded.sequences[key].values_LD for key in self.columns.events(role)]
        # torch.cat copies even what stands alone.
        packed_LD = vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=1)
        return self._projected(packed_LD, f"events_{role}")

    # ------------------------------------------------------------------------------ inside
    def _history(self, embedded: Embedded) -> _History:
        key = self.columns.events("attention")[0]
        age_L = embedded.ages.get(self.columns.sequence)
        events = Events.all_of(
            embedded.sequences[key].lengths_B,
            max_length=self.max_length if age_L is None else self.top_k,
            age_L=age_L,
            histories_B=embedded.histories_B,
        )
        target_BD = self.target(embedded, "attention")
        keys_LD = self.packed(embedded, "attention")
        scores_BW = self.attention(target_BD, keys_LD, events)
        ages_AD = self._ages("attention") if self.attention.learns else None
        if ages_AD is not None:  # the target's own age is 0
            scores_BW = scores_BW + events.of_ages(self._of_ages(ages_AD))
        return _History(events, scores_BW, target_BD, keys_LD)

    def _of_ages(self, ages_AD: Tensor) -> Tensor:
        """Scores of ages."""
        return (ages_AD @ ages_AD[0]) / sqrt(ages_AD.shape[1])

    def _searched(self, history: _History) -> tuple[Events, Tensor]:
        """The events that are kept, and their shares."""
        events, scores_BK = history.events, history.scores_BW
        if self.search is not None:
            with torch.no_grad():
                ranks_BW = self.search(scores_BK, history.target_BD, history.keys_LD, events)
                events, place_BK = events.best(ranks_BW, k=self.top_k)
            scores_BK = scores_BK.gather(1, place_BK)
        return events, self.attention.shares(scores_BK, events.is_event_BK)

    def _logits(
        self, embedded: Embedded, head: HistoryHead, events: Events, shares_BK: Tensor
    ) -> Tensor:
        history = [events.pool(shares_BK, self.packed(embedded, "representation"))]
        target = [self.target(embedded, "representation")]
        if (ages_AD := self._ages("representation")) is not None:
            history.append(events.pool_ages(shares_BK, ages_AD))
            target.append(ages_AD[0].expand(shares_BK.shape[0], -1))
        history_BD, target_BD = torch.cat(history, dim=1), torch.cat(target, dim=1)
        inputs = [target_BD, history_BD, *self.columns.context(embedded)]
        if self.target_aware:
            inputs.append(target_BD * history_BD)
        return head(torch.cat(inputs, dim=1))

    def _check_roles(self, attention: Attention) -> None:
        SettingsCheck(type(self).__name__).holds(
            self.attention.learns or not self.columns.is_decoupled,
            f"attention: has no gradient, so that nothing would train the attention vectors of "
            f"decoupled tables, got {attention}; allowed scaled_dot, activation_unit; or take "
            f"tables of another scheme",
        ).done()

    def _add_ages(self, width: int | None) -> None:
        """Vectors of the ages 0 (the target) ... max_length, for each role that has tables."""
        self.ages = nn.ParameterDict()
        roles = ROLES if self.columns.is_decoupled else ROLES[:1]
        for role in roles if width != 0 else ():
            of_role = width or self.columns.widths(role)[0]
            ages_AD = torch.empty(self.max_length + 1, of_role).normal_(std=_AGE_STD)
            self.ages[role] = nn.Parameter(ages_AD)

    def _ages(self, role: Role) -> Tensor | None:
        """Vectors of ages; roles share them as they do tables."""
        if not self.ages:
            return None
        return self.ages[role if self.columns.is_decoupled else ROLES[0]]

    def _add_projections(self, *, is_wanted: bool) -> None:
        self.projections = nn.ModuleDict()
        for role in ROLES if is_wanted else ():
            width = sum(self.columns.widths(role))
            for side in _SIDES:
                self.projections[f"{side}_{role}"] = nn.Linear(width, width, bias=False)

    def _projected(self, vectors: Tensor, name: str) -> Tensor:
        return self.projections[name](vectors) if name in self.projections else vectors

    def _label(self, layout: FieldLayout) -> None:
        """Say what the parameters' axes are made of."""
        for role, ages_AD in self.ages.items():
            positions = Segment(("@position",), ages_AD.shape[0])
            label(
                self.ages, role, gives([positions]), gives([Segment(("@age",), ages_AD.shape[1])])
            )
        of_attention = self._segments("attention")
        for name, projection in self.projections.items():
            side, _, role = name.partition("_")
            segments = self._segments(cast(Role, role), side)
            label_linear(projection, reads=reads(segments), gives=gives(segments))
        if isinstance(self.attention, ActivationUnit):
            self.attention.label_inputs(of_attention)
        sides = {side: self._segments("representation", side, ages=True) for side in _SIDES}
        read = [*sides["target"], *sides["events"], *self.columns.context_segments]
        if self.target_aware:
            read += [Segment((*s.of, "@product"), s.width) for s in sides["target"]]
        for head in (self.head, self.auxiliary_head):
            if head is not None:
                head.label_inputs(read, logits=label_segments(layout))

    def _segments(self, role: Role, side: str = "target", *, ages: bool = False) -> list[Segment]:
        """What the target or the events are made of in a role, with their ages or without."""
        widths = zip(self.columns.events(role), self.columns.widths(role), strict=True)
        found = [Segment((key, f"@{side}"), width) for key, width in widths]
        if ages and (ages_AD := self._ages(role)) is not None:
            found.append(Segment(("@age", f"@{side}"), ages_AD.shape[1]))
        return found

    def _width(self, role: Role) -> int:
        """Of what describes an event in a role, its age included."""
        ages_AD = self._ages(role)
        return sum(self.columns.widths(role)) + (0 if ages_AD is None else ages_AD.shape[1])

    def _attention(self, attention: Attention) -> TargetAttention:
        width = sum(self.columns.widths("attention"))
        match attention:
            case "scaled_dot":
                return ScaledDot()
            case "activation_unit":
                return ActivationUnit(width)
            case "hash_collisions":
                return HashCollisions(width)
            case "uniform":
                return Uniform()

    def _search(self, search: Search, *, num_bits: int) -> EventSearch | None:
        *_, last = widths = self.columns.widths("attention")
        match search:
            case "scores":
                return HighestScores()
            case "same_value":
                return SameValue(slice(sum(widths) - last, sum(widths)))
            case "sign_codes":
                return NearestCodes(sum(widths), num_bits=num_bits)
            case "none":
                return None


@dataclass(frozen=True)
class _History:
    """All events of the batch, the most recent first.

    Attributes:
        events: Which they are.
        scores_BW: What attention gives them.
        target_BD: What attention reads of the target.
        keys_LD: What it reads of the events.
    """

    events: Events
    scores_BW: Tensor
    target_BD: Tensor
    keys_LD: Tensor
