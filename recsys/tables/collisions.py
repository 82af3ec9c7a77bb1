"""Which ids share rows: brought together by hashes, or by the way a scheme cuts ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from recsys.tables.scheme import Scheme

NO_ROW = -1


@dataclass(frozen=True)
class Collisions:
    """Of some ids of one feature, within a group of ids of one table.

    Attributes:
        num_ids: Ids of the feature in the group that have rows.
        num_same_rows: Those that read exactly the rows of another id of the group, in its order,
            and so have its vector.
        num_any_row: Those that read some row which another id of the group reads too.
    """

    num_ids: int
    num_same_rows: int
    num_any_row: int

    @property
    def same_rows(self) -> float:
        """Share of the ids."""
        return self.num_same_rows / self.num_ids

    @property
    def any_row(self) -> float:
        """Share of the ids."""
        return self.num_any_row / self.num_ids


def frequent_ids(counts: Mapping[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """The most frequent ids of all features together, by feature; features with none are left out.

    Args:
        counts: Occurrences of the ids 1, 2, ... of each feature.
        share: Of all ids, rounded up. Ties go to the earlier feature, then to the smaller id.
    """
    if not counts:
        return {}
    joined = torch.cat([*counts.values()])
    chosen = torch.zeros(len(joined), dtype=torch.bool)
    order = joined.argsort(descending=True, stable=True)
    chosen[order[: ceil(round(len(joined) * share, 6))]] = True
    of_features = zip(counts, chosen.split([len(c) for c in counts.values()]), strict=True)
    found = {name: is_chosen.nonzero().flatten() + 1 for name, is_chosen in of_features}
    return {name: ids for name, ids in found.items() if len(ids)}


def collisions(scheme: Scheme, ids: Mapping[str, Tensor]) -> dict[str, Collisions]:
    """Collisions within a group of ids, by feature; empty where a scheme looks nothing up by row.

    Ids without rows are left out, and features that have no others. Rows of all physical tables
    count alike. A feature that several readers read with different numbers of probes is judged by
    the most.

    Args:
        scheme: Of the table.
        ids: The group: different ids of each feature.
    """
    rows = _rows(scheme, ids) if scheme.lookups else {}
    if not rows:
        return {}
    places = max(rows_LK.shape[1] for rows_LK in rows.values())
    padded = [
        torch.nn.functional.pad(rows_LK, (0, places - rows_LK.shape[1]), value=NO_ROW)
        for rows_LK in rows.values()
    ]
    joined_LK = torch.cat(padded)
    lengths = [len(rows_LK) for rows_LK in padded]
    same = _has_same_rows(joined_LK).split(lengths)
    any_row = _has_shared_row(joined_LK).split(lengths)
    return {
        name: Collisions(len(of_same), int(of_same.sum()), int(of_any.sum()))
        for name, of_same, of_any in zip(rows, same, any_row, strict=True)
    }


def total(of_features: Mapping[str, Collisions]) -> Collisions:
    """Of all features together."""
    found = of_features.values()
    return Collisions(
        sum(c.num_ids for c in found),
        sum(c.num_same_rows for c in found),
        sum(c.num_any_row for c in found),
    )


def _rows(scheme: Scheme, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows of each id that has some, by feature, numbered through all physical tables.

    A column is of a lookup.
    """
    lookups = {
        reader.key: [x for x in scheme.lookups if x.reader == reader.key]
        for reader in scheme.table.readers
    }
    chosen: dict[str, str] = {}
    for reader in scheme.table.readers:
        before = chosen.get(reader.namespace)
        if before is None or len(lookups[reader.key]) > len(lookups[before]):
            chosen[reader.namespace] = reader.key
    nothing = torch.zeros(0, dtype=torch.int64)
    wanted = {chosen[name]: of_feature for name, of_feature in ids.items()}
    of_readers = {r.key: wanted.get(r.key, nothing) for r in scheme.table.readers}
    found, has_rows = scheme.remap(of_readers), scheme.has_rows(of_readers)
    first, first_of = 0, {}
    for table in scheme.physical_tables:
        first_of[table.name] = first
        first += table.num_rows
    rows = {
        name: torch.stack([first_of[x.table] + found[x.name] for x in lookups[chosen[name]]], dim=1)
        for name in ids
    }
    rows = {name: rows_LK[has_rows[chosen[name]]] for name, rows_LK in rows.items()}
    return {name: rows_LK for name, rows_LK in rows.items() if len(rows_LK)}


def _has_same_rows(rows_LK: Tensor) -> Tensor:
    _, place_L, counts = rows_LK.unique(dim=0, return_inverse=True, return_counts=True)
    return counts[place_L] > 1


def _has_shared_row(rows_LK: Tensor) -> Tensor:
    rows_LK = rows_LK.sort(dim=1).values
    rows_LK[:, 1:][rows_LK[:, 1:] == rows_LK[:, :-1]] = NO_ROW  # of one id: no collision
    rows, place_LK, counts = rows_LK.unique(return_inverse=True, return_counts=True)
    is_shared = (counts > 1) & (rows != NO_ROW)
    return is_shared[place_LK].any(dim=1)
