"""How many ids will share rows of hashed tables: expected shares, without building a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from math import expm1, log1p, prod

from features.sizes import parse_bytes
from features.spec import Categorical, FeatureSet, HashEncoding
from features.table_spec import HashTable, StoredTable, UnifiedTable, stored_tables

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Collisions:
    """Of the ids of one feature.

    Attributes:
        place: Table, or `encoding` where values become ids by a hash of that size.
        feature: Whose ids they are.
        num_ids: Of the feature.
        num_rows: That they are spread over.
        some_row: Expected share of ids that share a row, of theirs or of other features' ids.
        all_rows: Expected share of ids whose vector is that of another id of the feature.
    """

    place: str
    feature: str
    num_ids: int
    num_rows: int
    some_row: float
    all_rows: float


def expected_collisions(
    feature_set: FeatureSet, num_ids: Mapping[str, int]
) -> tuple[Collisions, ...]:
    """Every feature that reads a hashed table, or is hashed to a size.

    Hashes are taken as independent and uniform.

    Args:
        feature_set: Names tables and features.
        num_ids: Different ids that occur, by feature; of one with a hash encoding, its different
            values.
    """
    found = []
    owners = [f for f in feature_set.embedded if getattr(f, "like", None) is None]
    ids = {}
    for feature in owners:
        encoding = feature.encoding if isinstance(feature, Categorical) else None
        ids[feature.name] = num_ids[feature.name]
        if isinstance(encoding, HashEncoding) and encoding.size is not None:
            share = _shared(num_ids[feature.name] - 1, encoding.size)
            n, size = num_ids[feature.name], encoding.size
            found.append(Collisions("encoding", feature.name, n, size, share, share))
            ids[feature.name] = round(size * -expm1(n * _log_miss(size)))
    for name, table in feature_set.resolved_tables().items():
        readers = [f for f in owners if feature_set.table_of(f.name) == name]
        sizes = {reader.name: ids[reader.name] for reader in readers}
        for stored_name, stored in stored_tables(name, table).items():
            match stored:
                case HashTable():
                    found += _hashed(stored_name, _rows(stored), sizes)
                case UnifiedTable():
                    probes = {reader.name: reader.probes for reader in readers}
                    found += _unified(stored_name, stored, sizes, probes)
                case _:
                    pass
    return tuple(found)


def _hashed(name: str, num_rows: int, num_ids: Mapping[str, int]) -> list[Collisions]:
    """Each feature has rows of its own, in proportion to its ids."""
    total = max(sum(num_ids.values()), 1)
    found = []
    for feature, ids in num_ids.items():
        rows = max(1, round(num_rows * ids / total))
        share = _shared(ids - 1, rows)
        found.append(Collisions(name, feature, ids, rows, share, share))
    return found


def _unified(
    name: str, table: UnifiedTable, num_ids: Mapping[str, int], probes: Mapping[str, int]
) -> list[Collisions]:
    """All features share all rows, with several tables by turns."""
    num_rows = _rows(table, copies=table.num_tables)
    turn = count()
    places = {f: [next(turn) % table.num_tables for _ in range(n)] for f, n in probes.items()}
    load = [0] * table.num_tables
    for feature, of_feature in places.items():
        for place in of_feature:
            load[place] += num_ids[feature]
    found = []
    for feature, of_feature in places.items():
        alone = sum(
            (load[place] - of_feature.count(place)) * _log_miss(num_rows) for place in of_feature
        )
        same = prod(1 / num_rows for _ in of_feature)
        all_rows = -expm1((num_ids[feature] - 1) * log1p(-same)) if same < 1 else 1.0
        found.append(Collisions(name, feature, num_ids[feature], num_rows, -expm1(alone), all_rows))
    return found


def _shared(num_others: int, num_rows: int) -> float:
    """Chance that one of the others has the same row."""
    if num_others <= 0:
        return 0.0
    return -expm1(num_others * _log_miss(num_rows))


def _log_miss(num_rows: int) -> float:
    return log1p(-1 / num_rows) if num_rows > 1 else -1e9


def _rows(table: StoredTable, *, copies: int = 1) -> int:
    assert isinstance(table, HashTable | UnifiedTable)
    assert table.dim is not None, "resolved"
    if table.rows is not None:
        num_bytes = table.rows * table.dim * FLOAT_BYTES
    else:
        assert table.budget is not None, "checked when the file is read"
        num_bytes = parse_bytes(table.budget)
    return max(1, num_bytes // (table.dim * FLOAT_BYTES * copies))
