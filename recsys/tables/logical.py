"""Logical tables: what the feature file names, and which features read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from features.columns import sequence_column
from features.errors import FeatureConfigError
from features.schema import FeatureSchema
from features.spec import Bucketized, Categorical, Sequence
from features.table_plan import TablePlan
from features.table_spec import (
    ROLES,
    DecoupledTable,
    PlannedTable,
    StagedTable,
    StoredTable,
    Table,
    role_key,
)

Pooling = Literal["none", "sum", "mean"]

OUTPUT_SUFFIX = "_output"
OUTPUT = "@output"
"""Reader of the items' second table, where they are scored by vectors of their own; no feature's
name has an @."""

TARGET = "@target"
"""Ends the names of tables that only the target reads, where the history has tables of its own."""


@dataclass(frozen=True)
class Reader:
    """One column of ids that looks up rows of a table.

    Attributes:
        key: Of its vectors: a feature or `sequence.of`; in a decoupled table with the role added.
        position: Place in the feature file; fields keep this order whatever table they read.
        namespace: Feature whose ids these are; readers of one namespace mean the same by an id.
        num_ids: Ids are 0 ... num_ids - 1; None: any 63-bit number.
        probes: Rows fetched per id.
        pooling: How the vectors of one example become one; `none` keeps the sequence.
        is_multi_valued: Whether an example may have other than one id.
        event_pooling: How the vectors of one event of a sequence become one, before those of the
            example do; `none`: an event has one id.
        source: Key of its ids in a batch. None: that of its vectors.
        first_name: What the namespace was called at first, where it was renamed since.
        max_length: Most events of an example, of a sequence; 1 of all else.
    """

    key: str
    position: int
    namespace: str
    num_ids: int | None
    probes: int
    pooling: Pooling
    is_multi_valued: bool
    event_pooling: Pooling = "none"
    source: str | None = None
    first_name: str | None = None
    max_length: int = 1

    @property
    def salt_name(self) -> str:
        """What hashes of its ids are salted with: renaming a feature moves none of them."""
        return self.first_name or self.namespace

    @property
    def column(self) -> str:
        """Key of its ids in a batch."""
        return self.source or self.key


@dataclass(frozen=True)
class LogicalTable:
    """A table of the feature file with its readers.

    Attributes:
        name: Name in the feature file, or that of its only feature; with the role, if it has any.
        dim: Width of one row.
        spec: Its scheme and sizes.
        readers: In the order of the feature file.
        plan: Of a planned table.
    """

    name: str
    dim: int
    spec: StoredTable
    readers: tuple[Reader, ...]
    plan: TablePlan | None = None

    def num_ids_per_namespace(self) -> dict[str, int | None]:
        """Ids of each feature that has ids of its own, in order of first appearance."""
        return {reader.namespace: reader.num_ids for reader in self.readers}

    def salt_names(self) -> dict[str, str]:
        """What hashes of each of these features' ids are salted with."""
        return {reader.namespace: reader.salt_name for reader in self.readers}


def logical_tables(schema: FeatureSchema) -> tuple[LogicalTable, ...]:
    """All tables of a schema that some feature reads, in the order of the feature file."""
    feature_set = schema.feature_set
    readers: dict[str, list[Reader]] = {}
    for position, (key, column) in enumerate(_columns(schema).items()):
        reader = _reader(schema, column, key=key, position=position)
        readers.setdefault(feature_set.table_of(column.of), []).append(reader)
    tables = feature_set.resolved_tables()
    return tuple(
        table
        for name, group in readers.items()
        for table in _with_roles(name, tables[name], tuple(group), plan=schema.plans.get(name))
    )


def _with_roles(
    name: str, table: Table, readers: tuple[Reader, ...], *, plan: TablePlan | None
) -> Iterator[LogicalTable]:
    """The table; or one for each role, whose vectors are keyed by it."""
    if not isinstance(table, DecoupledTable):
        yield LogicalTable(name, _dim(table), table, readers, plan)
        return
    of_history = tuple(reader for reader in readers if "." in reader.key)
    of_target = tuple(reader for reader in readers if "." not in reader.key)
    is_separate = table.separate_target and of_history and of_target
    groups = {"": of_history, TARGET: of_target} if is_separate else {"": readers}
    for role in ROLES:
        stored = table.role(role)
        for suffix, group in groups.items():
            in_role = tuple(replace(r, key=role_key(r.key, role), source=r.key) for r in group)
            yield LogicalTable(role_key(name, role) + suffix, _dim(stored), stored, in_role)


def with_output(tables: tuple[LogicalTable, ...], *, of: str) -> tuple[LogicalTable, ...]:
    """The tables, and one more like that of a reader, from which its items are scored.

    Args:
        tables: Of the schema.
        of: The reader whose table is doubled; `OUTPUT` reads the new one.

    Raises:
        FeatureConfigError: another table has the name of the new one, or theirs is trained in
            stages.
    """
    [(table, reader)] = [(t, r) for t in tables for r in t.readers if r.key == of]
    if isinstance(table.spec, StagedTable | PlannedTable):
        raise FeatureConfigError(
            f"tables.{table.name}: items cannot be scored by a second table like one that is "
            f"trained in stages, got scheme {table.spec.scheme}; set model.item_output to tied"
        )
    position = sum(len(t.readers) for t in tables)
    name = table.name + OUTPUT_SUFFIX
    if name in {t.name for t in tables}:
        raise FeatureConfigError(
            f"tables.{name}: is the name of the table that items are scored by, got a feature or "
            f"table of this name; rename it, or set model.item_output to tied"
        )
    doubled = replace(
        table,
        name=name,
        readers=(replace(reader, key=OUTPUT, position=position),),
    )
    return (*tables, doubled)


class _Column(NamedTuple):
    """Of a batch; `of` is the feature that has the ids."""

    of: str
    pooling: Pooling
    is_multi_valued: bool
    max_length: int = 1


def _columns(schema: FeatureSchema) -> dict[str, _Column]:
    """Columns of a batch by key, in file order."""
    columns: dict[str, _Column] = {}
    for feature in schema.feature_set.features:
        match feature:
            case Sequence():
                for of in feature.columns:
                    key = sequence_column(feature.name, of)
                    columns[key] = _Column(of, feature.pooling, True, feature.max_length)
            case Categorical():
                is_multi_valued = schema.is_multi_valued(feature.name)
                columns[feature.name] = _Column(feature.name, feature.pooling, is_multi_valued)
            case Bucketized():
                columns[feature.name] = _Column(feature.name, "mean", False)
            case _:
                pass
    return columns


def _reader(schema: FeatureSchema, column: _Column, *, key: str, position: int) -> Reader:
    feature = column.of
    spec = schema.feature_set.feature(feature)
    has_lists_of_events = key != feature and schema.is_multi_valued(feature)
    namespace = (spec.like if isinstance(spec, Categorical) else None) or feature
    return Reader(
        key=key,
        position=position,
        namespace=namespace,
        num_ids=schema.num_ids(feature),
        probes=spec.probes,
        pooling=column.pooling,
        is_multi_valued=column.is_multi_valued,
        event_pooling=spec.pooling if has_lists_of_events else "none",
        first_name=schema.feature_set.feature(namespace).renamed_from,
        max_length=column.max_length,
    )


def _dim(table: Table) -> int:
    assert table.dim is not None, "resolved tables have a dim"
    return table.dim
