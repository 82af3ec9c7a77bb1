"""One file per scheme; `build_scheme` is the only place that knows them all."""

from __future__ import annotations

from typing import assert_never

from features.spec import FullTable, HashTable, UnifiedTable
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import Scheme
from recsys.tables.schemes.full import FullScheme
from recsys.tables.schemes.hash import HashScheme
from recsys.tables.schemes.unified import UnifiedScheme


def build_scheme(table: LogicalTable) -> Scheme:
    """The scheme that the feature file names for a table."""
    spec = table.spec
    match spec:
        case FullTable():
            return FullScheme(table)
        case HashTable():
            return HashScheme(table, spec=spec)
        case UnifiedTable():
            return UnifiedScheme(table, spec=spec)
        case _:
            assert_never(spec)
