"""All that `python -m features check` says, as one object; JSON and words are made of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.checking.collisions import Collisions, expected_collisions
from features.checking.finding import Finding
from features.checking.memory import TableMemory, table_memory, total_per_rank
from features.checking.summaries import TableSummary, table_summaries
from features.spec import Categorical, FeatureSet, HashEncoding
from features.table_spec import DecoupledTable, UnifiedTable

if TYPE_CHECKING:
    import polars as pl

    from features.schema import FeatureSchema

FORMAT = 1


@dataclass(frozen=True, eq=False)
class CheckResult:
    """A feature file that can be used.

    Attributes:
        feature_set: What the person wrote.
        schema: Fitted to data; None without data, as are `rows`.
        rows: Events of train, val and test.
        warnings: In the order of their weight.
        tables: Each with its memory, where that is known.
        collisions: Of hashed tables and encodings, as far as the ids are known.
        world_size: Ranks that memory is told for.
    """

    feature_set: FeatureSet
    schema: FeatureSchema | None
    rows: dict[str, int] | None
    warnings: tuple[Finding, ...]
    tables: tuple[tuple[TableSummary, TableMemory | None], ...]
    collisions: tuple[Collisions, ...]
    world_size: int

    @property
    def bytes_per_rank(self) -> int:
        """Of all tables whose memory is known."""
        return total_per_rank(memory for _, memory in self.tables)

    @property
    def not_estimated(self) -> tuple[str, ...]:
        """Tables whose memory is not known."""
        return tuple(summary.name for summary, memory in self.tables if memory is None)


def check_file(
    feature_set: FeatureSet, data_dir: Path | None, *, world_size: int = 1
) -> CheckResult:
    """Look at a feature file, and at its data where that is given.

    Args:
        feature_set: From the file.
        data_dir: Where its paths start; None: no data is read.
        world_size: Ranks that memory is told for.

    Raises:
        DataError: with all that is wrong in the data.
    """
    if data_dir is None:
        tables = _with_memory(feature_set, None, world_size=world_size)
        return CheckResult(feature_set, None, None, (), tables, (), world_size)
    from features.checking.find import find_all, rows_by_part
    from features.fit import fit_schema
    from features.sources import scan_events
    from features.split import assign_split

    frame = assign_split(feature_set, scan_events(feature_set, data_dir))
    schema = fit_schema(feature_set, frame)
    rows = rows_by_part(frame)
    return CheckResult(
        feature_set=feature_set,
        schema=schema,
        rows=rows,
        warnings=find_all(schema, frame, num_training=rows["train"]),
        tables=_with_memory(feature_set, schema, world_size=world_size),
        collisions=expected_collisions(feature_set, _num_ids(schema, frame)),
        world_size=world_size,
    )


def as_json(result: CheckResult, *, file: Path, data_dir: Path | None) -> dict[str, Any]:
    """The object of `--json`; docs/first_run.md says what its keys mean.

    Args:
        result: Of `check_file`.
        file: The feature file.
        data_dir: Where its paths start.
    """
    schema = result.schema
    return {
        "format": FORMAT,
        "file": str(file),
        "data": None if data_dir is None else str(data_dir),
        "mistakes": [],
        "fingerprint": None if schema is None else schema.fingerprint(),
        "rows": result.rows,
        "warnings": [
            {**asdict(finding), "numbers": dict(finding.numbers)} for finding in result.warnings
        ],
        "features": [_feature(result, feature) for feature in result.feature_set.features],
        "tables": [_table(summary, memory) for summary, memory in result.tables],
        "collisions": [asdict(collisions) for collisions in result.collisions],
        "memory": {
            "world_size": result.world_size,
            "bytes_per_rank": result.bytes_per_rank,
            "not_estimated": list(result.not_estimated),
        },
    }


def mistakes_as_json(
    mistakes: tuple[str, ...], *, file: Path, data_dir: Path | None
) -> dict[str, Any]:
    """The object of `--json` for a file that cannot be used.

    Args:
        mistakes: Of the file, or of its data.
        file: The feature file.
        data_dir: Where its paths start.
    """
    return {
        "format": FORMAT,
        "file": str(file),
        "data": None if data_dir is None else str(data_dir),
        "mistakes": list(mistakes),
    }


def _feature(result: CheckResult, feature: Any) -> dict[str, Any]:
    is_embedded = feature in result.feature_set.embedded
    schema = result.schema
    return {
        "name": feature.name,
        "kind": feature.kind,
        "table": result.feature_set.table_of(feature.name) if is_embedded else None,
        "ids": schema.num_ids(feature.name) if schema is not None and is_embedded else None,
    }


def _table(summary: TableSummary, memory: TableMemory | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": summary.name,
        "scheme": summary.scheme,
        "read_by": list(summary.readers),
        "rows": summary.rows,
        "dim": summary.dim,
        "bytes": summary.num_bytes,
        "place": None,
        "optimizer": None,
        "bytes_with_state": None,
        "bytes_per_rank": None,
    }
    if memory is not None:
        found |= {
            "place": memory.place,
            "optimizer": memory.optimizer,
            "bytes_with_state": memory.bytes_with_state,
            "bytes_per_rank": memory.bytes_per_rank,
        }
    return found


def _with_memory(
    feature_set: FeatureSet, schema: FeatureSchema | None, *, world_size: int
) -> tuple[tuple[TableSummary, TableMemory | None], ...]:
    tables = feature_set.resolved_tables()
    found = []
    for summary in table_summaries(feature_set, schema):
        table = tables[summary.name.partition("@")[0]]
        # Tables that the target has apart are not in the summary.
        is_doubled = isinstance(table, DecoupledTable) and table.separate_target
        parts = table.num_tables if isinstance(table, UnifiedTable) else 1
        memory = table_memory(
            summary.scheme,
            num_rows=None if is_doubled else summary.rows,
            dim=summary.dim,
            num_parts=parts,
            world_size=world_size,
        )
        found.append((summary, memory))
    return tuple(found)


def _num_ids(schema: FeatureSchema, frame: pl.LazyFrame) -> dict[str, int]:
    """Different ids of each feature in training; of hashed ones, different values."""
    import polars as pl

    from features.columns import SPLIT
    from features.values import categorical_values, is_multi_valued, raw_types

    feature_set = schema.feature_set
    types = raw_types(feature_set, frame)
    training = frame.filter(pl.col(SPLIT) == "train")
    found: dict[str, int] = {}
    for feature in feature_set.embedded:
        is_hashed = isinstance(feature, Categorical) and isinstance(
            schema.encoding_of(feature.name), HashEncoding
        )
        if is_hashed and feature.like is None:
            dtype = types[feature.name]
            values = training.select(value=categorical_values(feature, dtype))
            if is_multi_valued(feature, dtype):
                values = values.explode("value")
            distinct = values.drop_nulls().unique().select(pl.len())
            found[feature.name] = int(distinct.collect(engine="streaming").item())
        elif not is_hashed:
            found[feature.name] = schema.num_ids(feature.name) or 0
    return found
