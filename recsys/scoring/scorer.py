"""A loaded bundle: batches in, probabilities or scores of the catalogue out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from recsys.bundle import MODEL, SEARCH, read_bundle
from recsys.bundle_tables import BundleTables
from recsys.data.item_sequence import ItemSequence
from recsys.nn.cutting import to_own_histories
from recsys.nn.events import Events
from recsys.nn.history_columns import HistoryColumns
from recsys.nn.tokens import Tokens, is_last
from recsys.tables.layout import field_layout
from recsys.two_stages import embed_kept
from recsys.types import Batch, Embedded

Program = Callable[..., Any]


class Scorer:
    """A loaded bundle.

    Args:
        bundle: Its directory.
        precision: In which the program multiplies matrices; tables and results have 32 bits.

    Attributes:
        manifest: What it holds.
        schema: What it encodes raw data with.
        program: Everything after the tables.
        search: Finds the events that the program reads; None where it reads all.

    Raises:
        SchemaMismatchError: it is no whole bundle, or one of a sequence model of an older version.
    """

    def __init__(self, bundle: Path, *, precision: Literal["float32", "bf16"] = "float32") -> None:
        self._is_bf16 = precision == "bf16"
        self.manifest, self.schema = read_bundle(bundle)
        tables = BundleTables(bundle, manifest=self.manifest, schema=self.schema)
        if self.manifest.task == "sequence":
            self._items = ItemSequence.of(self.schema.feature_set)
        self._tables = tables
        self._embedder = tables.embedder
        self._item_bias_V = tables.item_bias_V
        self.program: Program = torch.export.load(bundle / MODEL).module()
        self.search: ExportedSearch | None = None
        if (bundle / SEARCH).is_file():
            self.search = ExportedSearch(
                torch.export.load(bundle / SEARCH).module(),
                HistoryColumns.of(field_layout(self.schema, self._embedder), where=str(bundle)),
            )

    @torch.inference_mode()
    def probabilities(self, batch: Batch) -> Tensor:
        """Probabilities (B, T) of a ranking bundle's labels.

        Raises:
            DataError, SchemaMismatchError: see `Embedder.check`.
        """
        self._embedder.check(batch)
        batch = to_own_histories(batch)  # an exported program knows no others
        search = self.search
        if search is None:
            embedded = self._embedder(batch)
        else:
            embedded = embed_kept(self._embedder, batch, columns=search.columns, search=search)
        histories = embedded.sequences.values()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._is_bf16):
            probabilities_BT = self.program(
                list(embedded.fields.values()),
                [one_event_at_least(x.values_LD) for x in histories],
                # Of each its own: a tensor passed twice counts as one input.
                [x.lengths_B.clone() for x in histories],
                embedded.dense_BN,
                [one_event_at_least(age_L) for age_L in embedded.ages.values()],
            )
        return probabilities_BT.float()

    @torch.inference_mode()
    def user_vectors(self, batch: Batch) -> Tensor:
        """Vectors (B, D) of what comes after each history of a sequence bundle's users.

        A score is the dot product with the vector of an item. Where items have a bias, it is their
        last number, which a 1 in the vectors of users multiplies.

        Raises:
            DataError, SchemaMismatchError: see `Embedder.check`.
        """
        self._embedder.check(batch)
        assert batch.sequences is not None, "a sequence bundle"
        items = self._items
        tokens = Tokens.of(batch.sequences, keys=items.keys, time_key=items.time_key).as_question(
            self.manifest.objective or "next", max_length=self.manifest.max_length or 0
        )
        history = tokens.history(self._embedder.sequences(tokens.keyed()))
        sides = [history.sides[key] for key in items.keys[1:]]
        times = [t for t in (history.times_L, history.asked_at_L) if t is not None]
        lengths_B, is_last_L = tokens.lengths_B, is_last(tokens.lengths_B)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._is_bf16):
            vectors_BD = self.program(history.items_LD, sides, times, lengths_B, is_last_L)
        return _with(vectors_BD.float(), self._item_bias_V, torch.ones(1))

    @cached_property
    def item_vectors_VD(self) -> Tensor:
        """What items of a sequence bundle are scored by; row 0 is that of unknown ones."""
        vectors_VD = self._tables.item_vectors_VD
        return _with(vectors_VD, self._item_bias_V, self._item_bias_V)

    @property
    def has_item_bias(self) -> bool:
        """Whether items of a sequence bundle have a bias: the last number of their vectors."""
        return self._item_bias_V is not None

    @torch.inference_mode()
    def catalogue_scores(self, batch: Batch) -> Tensor:
        """Scores (B, V) of a sequence bundle's items."""
        return self.user_vectors(batch) @ self.item_vectors_VD.T


@dataclass(frozen=True)
class ExportedSearch:
    """Finds the events of histories that a ranking program reads.

    Attributes:
        program: Of the bundle.
        columns: What it reads.
    """

    program: Program
    columns: HistoryColumns

    def __call__(self, embedded: Embedded) -> Events:
        """The events to keep, best first."""
        histories = [embedded.sequences[key] for key in self.columns.events("attention")]
        targets = [embedded.fields[key] for key in self.columns.targets("attention")]
        events = [one_event_at_least(x.values_LD) for x in histories]
        return Events(*self.program(targets, events, histories[0].lengths_B))


def _with(vectors: Tensor, item_bias_V: Tensor | None, last: Tensor | None) -> Tensor:
    """Vectors with one more number where items have a bias."""
    if item_bias_V is None or last is None:
        return vectors
    return torch.cat([vectors, last.expand(len(vectors)).unsqueeze(1)], dim=1)


def one_event_at_least(packed: Tensor) -> Tensor:
    """What belongs to events; for none an event that no example owns, as a program must have."""
    return packed if len(packed) else packed.new_zeros(1, *packed.shape[1:])
