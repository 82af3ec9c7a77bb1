"""What sharding asks of tables, and what a run file may ask of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from features.errors import FeatureConfigError, RunConfigError, did_you_mean
from recsys.tables.config import TablesConfig
from recsys.tables.scheme import PhysicalTable, Scheme


def check_widths(sharded: Sequence[PhysicalTable]) -> None:
    """Refuse sharded tables whose rows fbgemm cannot read.

    Args:
        sharded: Tables of the collections.

    Raises:
        FeatureConfigError: with all of them.
    """
    wrong = [
        f"tables.{table.name}: fbgemm's rows have a multiple of 4 numbers, got a sharded table of "
        f"{table.dim}; change the table's dim or scheme in the feature file, or set "
        f"tables.dense_max_bytes of the run to {table.num_bytes} or more"
        for table in sharded
        if table.dim % 4
    ]
    if wrong:
        raise FeatureConfigError(wrong)


def check_sharding(config: TablesConfig, tables: Sequence[PhysicalTable]) -> None:
    """Refuse settings of tables that are not sharded, or whose rows must stay whole.

    Args:
        config: Names tables.
        tables: Of the collections.

    Raises:
        RunConfigError: with all mistakes.
    """
    sharded = [table.name for table in tables]
    wrong = [
        f"tables.sharding.{name}: no sharded table of this name, got {name!r}; allowed "
        f"{', '.join(sharded) or 'none'}{did_you_mean(name, sharded)}; tables up to "
        f"tables.dense_max_bytes = {config.dense_max_bytes} are replicated"
        for name in config.sharding
        if name not in sharded
    ]
    wrong += [
        f"tables.sharding.{t.name}: column_wise would part rows from their learned steps, got "
        f"column_wise; allowed table_wise, row_wise; change it, or set the table's step to fixed"
        for t in tables
        if config.sharding.get(t.name) == "column_wise" and t.grid is not None and t.grid.is_learned
    ]
    wrong += [
        f"tables.host_memory: no sharded table of this name, got {name!r}; allowed "
        f"{', '.join(sharded) or 'none'}{did_you_mean(name, sharded)}"
        for name in config.host_memory
        if name not in sharded
    ]
    if wrong:
        raise RunConfigError(wrong)


def check_host_memory(config: TablesConfig, schemes: Iterable[Scheme]) -> None:
    """Refuse to keep rows beside the GPU that schemes change in training.

    They would change them there, where the GPU's own copy is what is read.

    Args:
        config: Names tables.
        schemes: Of all tables.

    Raises:
        RunConfigError: with all of them.
    """
    wrong = [
        f"tables.host_memory: the scheme of this table changes rows beside the kernels, got "
        f"{table.name!r}, {scheme.table.spec.scheme}; allowed tables whose rows only the optimiser "
        f"changes; leave it out"
        for scheme in schemes
        if type(scheme).after_steps is not Scheme.after_steps
        or type(scheme).before_views is not Scheme.before_views
        for table in scheme.physical_tables
        if table.name in config.host_memory
    ]
    if wrong:
        raise RunConfigError(wrong)


def check_row_dtype(config: TablesConfig, schemes: Mapping[str, Scheme]) -> None:
    """Refuse rows of 16 bits to schemes that work on them themselves.

    Args:
        config: Says how many bits.
        schemes: By sharded table.

    Raises:
        RunConfigError: with all such tables.
    """
    dtype = config.row_dtype
    wrong = [
        f"tables.{name}: a {scheme.table.spec.scheme} table works on its rows after a step "
        f"and needs 32 bits, got a sharded one in {dtype}; allowed fp32; set "
        f"tables.row_dtype to fp32, or the table's scheme to another in the feature file"
        for name, scheme in schemes.items()
        if dtype != "fp32" and not scheme.takes_half_rows
    ]
    if wrong:
        raise RunConfigError(wrong)
