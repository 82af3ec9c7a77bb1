"""What finds the events of a history that matter to a target, without the model that learned it.

manifest.json            columns, number of events to keep, a hash of every file
schema/                  the fitted feature schema, which encodes raw values to ids
search.safetensors       vectors of attention of every id, by column, and scores of ages
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from features.errors import SchemaMismatchError
from features.permissions import give_usual_mode, refused_by_name
from features.schema import FeatureSchema
from features.storage import load_schema, save_schema
from recsys.bundle import MANIFEST, SCHEMA, check_files, hashes, read_json
from recsys.nn.events import Events

FORMAT = 1
VECTORS = "search.safetensors"
DType = Literal["int8", "fp32"]
_EVENTS, _TARGETS, _SCALES, _AGES = "events.", "targets.", ".scales", "age_scores"
_KEYS = {"format", "sequence", "columns", "top_k", "schema_fingerprint", "versions", "files"}


@dataclass(frozen=True)
class Vectors:
    """A vector for every id of a column.

    Attributes:
        values_VD: The numbers, or codes of them.
        scales_V1: What the codes of a row are multiplied with; None where they are the numbers.
    """

    values_VD: Tensor
    scales_V1: Tensor | None = None

    def to_int8(self) -> Vectors:
        """Codes from -127 to 127; the largest number of a row keeps its value."""
        largest_V1 = self.values_VD.abs().amax(1, keepdim=True)
        scales_V1 = torch.where(largest_V1 > 0, largest_V1 / 127, 1.0)
        return Vectors((self.values_VD / scales_V1).round().to(torch.int8), scales_V1)

    def take(self, ids_L: Tensor) -> Tensor:
        """Vectors (L, D) of some ids."""
        vectors_LD = self.values_VD.index_select(0, ids_L)
        if self.scales_V1 is None:
            return vectors_LD
        return vectors_LD * self.scales_V1.index_select(0, ids_L)

    @property
    def num_bytes(self) -> int:
        """Of values and scales."""
        parts = [self.values_VD] if self.scales_V1 is None else [self.values_VD, self.scales_V1]
        return sum(part.numel() * part.element_size() for part in parts)


@dataclass(frozen=True)
class HistoryIndex:
    """Searches histories of ids.

    Attributes:
        sequence: Name of the history's feature.
        events: What a target compares with, by column of the history.
        targets: What a target is, by the same columns.
        age_scores_A: What its age adds to an event's score.
        top_k: Events to keep.
    """

    sequence: str
    events: Mapping[str, Vectors]
    targets: Mapping[str, Vectors]
    age_scores_A: Tensor
    top_k: int

    @torch.no_grad()
    def search(
        self,
        targets: Mapping[str, Tensor],
        events: Mapping[str, Tensor],
        lengths_B: Tensor,
        *,
        k: int | None = None,
    ) -> Events:
        """The events that matter most to each target, best first.

        Args:
            targets: Ids (B,) of the targets, by column.
            events: Ids (L,) of all events, packed, each history oldest first, by column.
            lengths_B: Events of each history.
            k: Events to keep. None: `top_k`.

        Raises:
            SchemaMismatchError: an id that no vector belongs to, a history too long, or lengths
                that do not fit events or targets.
        """
        k = self.top_k if k is None else k
        self._check(targets, events, lengths_B, k=k)
        max_length = len(self.age_scores_A) - 1
        of_all = Events.all_of(lengths_B, max_length=max_length)
        target_BD = torch.cat([v.take(targets[name]) for name, v in self.targets.items()], dim=1)
        packed_LD = torch.cat([v.take(events[name]) for name, v in self.events.items()], dim=1)
        scores_BW = of_all.dot(packed_LD, target_BD) / sqrt(target_BD.shape[1])
        scores_BW = scores_BW + of_all.of_ages(self.age_scores_A)
        return of_all.best(scores_BW, k=k)[0]

    def to_int8(self) -> HistoryIndex:
        """The same in a fourth of the memory, and a scale per row."""
        small = {id(v): v.to_int8() for v in (*self.events.values(), *self.targets.values())}
        return HistoryIndex(
            self.sequence,
            {name: small[id(v)] for name, v in self.events.items()},
            {name: small[id(v)] for name, v in self.targets.items()},
            self.age_scores_A,
            self.top_k,
        )

    @property
    def num_bytes(self) -> int:
        """Of all vectors."""
        each = {id(v): v for v in (*self.events.values(), *self.targets.values())}
        return sum(v.num_bytes for v in each.values())

    def save(self, directory: Path, *, schema: FeatureSchema, versions: Mapping[str, str]) -> None:
        """Write it into an empty directory.

        Args:
            directory: Exists.
            schema: What ids are encoded with.
            versions: Of the libraries that wrote it.
        """
        tensors = {_AGES: self.age_scores_A}
        for name, vectors in self.events.items():
            tensors |= _named(f"{_EVENTS}{name}", vectors)
            if self.targets[name] is not vectors:
                tensors |= _named(f"{_TARGETS}{name}", self.targets[name])
        save_file({name: t.contiguous() for name, t in tensors.items()}, directory / VECTORS)
        give_usual_mode(directory / VECTORS)
        save_schema(schema, directory / SCHEMA)
        content = {
            "format": FORMAT,
            "sequence": self.sequence,
            "columns": list(self.events),
            "top_k": self.top_k,
            "schema_fingerprint": schema.fingerprint(),
            "versions": dict(versions),
            "files": hashes(directory),
        }
        (directory / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    @refused_by_name(SchemaMismatchError)
    def load(cls, directory: Path) -> tuple[HistoryIndex, FeatureSchema]:
        """One that was saved, and what its ids are encoded with.

        Raises:
            SchemaMismatchError: it is none, or a file is missing or changed.
        """
        file = directory / MANIFEST
        content = read_json(file) if file.is_file() else {}
        if content.keys() != _KEYS or content["format"] != FORMAT:
            raise SchemaMismatchError(
                f"{directory}: is no search of histories, got keys {', '.join(content) or 'none'} "
                f"in {MANIFEST}; make one with `python -m recsys export-search RUN --out DIR`"
            )
        check_files(directory, content["files"])
        tensors = load_file(directory / VECTORS)
        events = {name: _read(tensors, f"{_EVENTS}{name}") for name in content["columns"]}
        targets = {
            name: _read(tensors, f"{_TARGETS}{name}") if f"{_TARGETS}{name}" in tensors else shared
            for name, shared in events.items()
        }
        ages = tensors[_AGES]
        index = cls(content["sequence"], events, targets, ages, content["top_k"])
        return index, load_schema(directory / SCHEMA)

    def _check(
        self,
        targets: Mapping[str, Tensor],
        events: Mapping[str, Tensor],
        lengths_B: Tensor,
        *,
        k: int,
    ) -> None:
        mistakes = []
        if k < 1:
            mistakes.append(f"k: is no number of events, got {k}; allowed 1 and more")
        least = int(lengths_B.min()) if len(lengths_B) else 0
        if least < 0:
            mistakes.append(f"lengths_B: has negative ones, got {least}; allowed 0 and more")
        longest, most = int(lengths_B.max()) if len(lengths_B) else 0, len(self.age_scores_A) - 1
        if longest > most:
            mistakes.append(
                f"{self.sequence}: a history is too long, got {longest} events; allowed {most}; "
                f"keep the most recent ones"
            )
        for name, vectors in self.events.items():
            num_ids = len(vectors.values_VD)
            for what, ids, wanted in (
                ("events", events[name], int(lengths_B.sum())),
                ("targets", targets[name], len(lengths_B)),
            ):
                if len(ids) != wanted:  # a kernel that trusts them would read what is not there
                    mistakes.append(
                        f"features.{name}: {what} do not fit the histories, got {len(ids)} ids; "
                        f"the lengths of {len(lengths_B)} histories ask for {wanted}"
                    )
            for ids in (targets[name], events[name]):
                if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < num_ids:
                    wrong = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
                    mistakes.append(
                        f"features.{name}: id that no vector belongs to, got {wrong}; allowed "
                        f"0 ... {num_ids - 1}; encode the data with the schema beside the vectors"
                    )
        if mistakes:
            raise SchemaMismatchError(mistakes)


def _named(name: str, vectors: Vectors) -> dict[str, Tensor]:
    scales = {} if vectors.scales_V1 is None else {name + _SCALES: vectors.scales_V1}
    return {name: vectors.values_VD} | scales


def _read(tensors: Mapping[str, Tensor], name: str) -> Vectors:
    return Vectors(tensors[name], tensors.get(name + _SCALES))
