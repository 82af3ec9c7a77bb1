"""Trained tables in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from features.schema import FeatureSchema
from recsys.tables.angles import Angle, angles
from recsys.tables.collisions import Collisions, collisions, frequent_ids
from recsys.tables.embedder import Embedder
from recsys.tables.gauges import load_factors, row_norms
from recsys.tables.scheme import Scheme

FREQUENT_SHARE = 0.01


@dataclass(frozen=True)
class PhysicalDiagnosis:
    """A matrix of rows.

    Attributes:
        name: Of the physical table.
        num_rows: V.
        dim: D.
        load_factor: Ids that can reach it, per row; None where there are any number of ids.
        norm_quantiles: Lengths of its rows at `gauges.QUANTILES`, without the broken ones.
        num_broken_rows: Rows with NaN or infinite numbers.
    """

    name: str
    num_rows: int
    dim: int
    load_factor: float | None
    norm_quantiles: tuple[float, ...]
    num_broken_rows: int


@dataclass(frozen=True)
class TableDiagnosis:
    """A logical table.

    Attributes:
        name: In the feature file.
        scheme: How it is stored.
        num_bytes: All that training changes.
        readers: Keys of who reads it.
        rows_per_id: Rows that an id reads, at most; 0 for schemes without rows.
        uncounted: Features whose ids have no training counts, as those of vocabularies have.
        collisions: Among the most frequent ids of all its features together, by feature; empty
            where nothing is looked up by row, or nothing was counted.
        physical: What is stored; empty for schemes without rows.
        angles: Between its readers; None where no gradients are known.
    """

    name: str
    scheme: str
    num_bytes: int
    readers: tuple[str, ...]
    rows_per_id: int
    uncounted: tuple[str, ...]
    collisions: Mapping[str, Collisions]
    physical: tuple[PhysicalDiagnosis, ...]
    angles: tuple[Angle, ...] | None


def diagnose(
    embedder: Embedder, schema: FeatureSchema, *, moments: Mapping[str, Tensor] | None
) -> tuple[TableDiagnosis, ...]:
    """All logical tables, in the order of the feature file.

    Args:
        embedder: With all tables replicated.
        schema: Has the counts of ids.
        moments: G^T G of the gradients of logits, by field; None: not known.
    """
    schemes = [scheme for scheme in embedder.schemes.values() if isinstance(scheme, Scheme)]
    return tuple(_diagnose(s, schema, embedder.replicated.weights, moments) for s in schemes)


def _diagnose(
    scheme: Scheme,
    schema: FeatureSchema,
    weights: nn.ParameterDict,
    moments: Mapping[str, Tensor] | None,
) -> TableDiagnosis:
    table = scheme.table
    counts = {
        name: torch.from_numpy(schema.vocabularies[name].counts.to_numpy().astype("int64"))
        for name in table.num_ids_per_namespace()
        if name in schema.vocabularies
    }
    loads = load_factors(scheme)
    return TableDiagnosis(
        name=table.name,
        scheme=table.spec.scheme,
        num_bytes=scheme.num_bytes,
        readers=tuple(reader.key for reader in table.readers),
        rows_per_id=max(Counter(x.reader for x in scheme.lookups).values(), default=0),
        uncounted=tuple(name for name in table.num_ids_per_namespace() if name not in counts),
        collisions=collisions(scheme, frequent_ids(counts, share=FREQUENT_SHARE)),
        physical=tuple(
            PhysicalDiagnosis(t.name, t.num_rows, t.dim, loads[t.name], *row_norms(weights[t.name]))
            for t in scheme.physical_tables
        ),
        angles=None if moments is None else angles(scheme, moments),
    )
