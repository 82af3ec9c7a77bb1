"""Angles between the readers of a table: whether a model can tell their parts of a row apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import acos, degrees, sqrt

from torch import Tensor

from recsys.tables.scheme import Scheme


@dataclass(frozen=True)
class RowReader:
    """Something that reads rows of a table on its own: a feature, or one of its probes.

    Attributes:
        name: Key of the reader, or name of the lookup.
        namespace: Feature whose ids these are.
        probe: Number of the probe; readers of one namespace and probe read the same rows.
        moments_DD: G^T G, where a row of G is the gradient of an example's logit.
    """

    name: str
    namespace: str
    probe: int
    moments_DD: Tensor


@dataclass(frozen=True)
class Angle:
    """Between two readers of a table.

    Attributes:
        table: The physical table; the logical one where a vector is no row.
        one: A reader.
        other: Another one, which reads other rows.
        degrees: 0 to 90; None where one of them changes no logit.
    """

    table: str
    one: str
    other: str
    degrees: float | None


def row_readers(scheme: Scheme, moments: Mapping[str, Tensor]) -> dict[str, list[RowReader]]:
    """Everything that reads on its own, by table.

    Where a vector is rows side by side, as in unified tables, each probe is a reader of its
    physical table; otherwise a whole feature is one of the logical table.

    Args:
        scheme: Of a logical table.
        moments: G^T G of whole vectors, by reader; those that have no vector per example are
            missing.
    """
    found: dict[str, list[RowReader]] = {}
    width = scheme.table.dim
    for r in scheme.table.readers:
        if r.key not in moments:
            continue
        lookups = [x for x in scheme.lookups if x.reader == r.key]
        whole = moments[r.key]
        if len(lookups) * width != len(whole):
            found.setdefault(scheme.table.name, []).append(RowReader(r.key, r.namespace, 0, whole))
            continue
        for probe, lookup in enumerate(lookups):
            own = slice(probe * width, (probe + 1) * width)
            reader = RowReader(lookup.name, r.namespace, probe, whole[own, own])
            found.setdefault(lookup.table, []).append(reader)
    return found


def angles(scheme: Scheme, moments: Mapping[str, Tensor]) -> tuple[Angle, ...]:
    """Angles between all pairs of readers of a table, but those that read the same rows anyway.

    Args:
        scheme: Of a logical table.
        moments: As in `row_readers`.
    """
    return tuple(
        Angle(table, one.name, other.name, angle(one.moments_DD, other.moments_DD))
        for table, readers in row_readers(scheme, moments).items()
        for one, other in combinations(readers, 2)
        if (one.namespace, one.probe) != (other.namespace, other.probe)
    )


def angle(one_DD: Tensor, other_DD: Tensor) -> float | None:
    """Degrees between the directions in which two readers read rows; None where one reads nothing.

    arccos sqrt(tr(M N) / (|M| |N|)) with M = G^T G of gradients G. For linear readers it is the
    angle between their weights, up to their signs, 0 to 90; for others it says how much they look
    at the same parts of a row.

    Args:
        one_DD: M, symmetric.
        other_DD: N, symmetric.

    Source: Coleman et al., Unified Embedding (2023), https://arxiv.org/abs/2305.12102, section 4,
    which takes weights of a linear layer.
    """
    scale = float(one_DD.norm() * other_DD.norm())
    if not scale > 0:
        return None
    overlap = float((one_DD * other_DD).sum()) / scale
    return degrees(acos(sqrt(min(1.0, max(0.0, overlap)))))


def narrowest(found: Sequence[Angle]) -> list[Angle]:
    """Those that are known, the smallest first."""
    return sorted((a for a in found if a.degrees is not None), key=lambda a: a.degrees or 0.0)
