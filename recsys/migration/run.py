"""A run whose checkpoint is one of another schema: written as a whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from features.errors import RunConfigError, did_you_mean
from features.fit import fit_file
from features.schema import FeatureSchema
from features.spec import FeatureSet
from recsys.migration.filling import TableReport
from recsys.migration.migration import LAYERS, Migration, plan_migration
from recsys.migration.report import as_json, dropped_values
from recsys.new_folder import new_folder

REPORT = "migration.json"
DROPPED = "dropped.parquet"


def fitted_to(feature_set: FeatureSet, data: Path | None) -> FeatureSchema | None:
    """The schema of a feature set fitted to data; None without data.

    Args:
        feature_set: What to fit.
        data: Directory of the raw files.

    Raises:
        DataError: the data does not fit the feature set.
    """
    if data is None:
        return None
    return fit_file(feature_set, data)


def check_resets(resets: Sequence[str], feature_set: FeatureSet) -> None:
    """Refuse names of nothing.

    Raises:
        RunConfigError: with all such names.
    """
    allowed = [
        *feature_set.resolved_tables(),
        *(feature.name for feature in feature_set.embedded),
        LAYERS,
    ]
    mistakes = [
        f"--reset: is the name of no table and no feature that reads one, got {name!r}"
        f"{did_you_mean(name, allowed)}; allowed {', '.join(dict.fromkeys(allowed))}"
        for name in resets
        if name not in allowed
    ]
    if mistakes:
        raise RunConfigError(mistakes)


def check_given_up(migration: Migration, resets: Sequence[str]) -> None:
    """Refuse to lose anything that has not been given up by name.

    Raises:
        RunConfigError: with all that was not.
    """
    reasons = {change.name: change.reasons for change in migration.difference.changes}
    mistakes = {
        name: f"{name}: cannot be kept: {'; '.join(reasons[name])}; run `migrate` with `--reset "
        f"{name}` to begin it anew, or undo the edit"
        for name in migration.difference.resets
        if name not in resets
    }
    mistakes |= {
        names[0]: f"{names[0]}: {why}; run `migrate` with `--reset {names[0]}` to begin it "
        f"anew, or undo the edit"
        for names, why in migration.lost()
        if not set(names) & {*resets, *mistakes}
    }
    if mistakes:
        raise RunConfigError(mistakes.values())


def write_run(
    migration: Migration,
    out: Path,
    *,
    features: Mapping[str, bytes],
    more: Mapping[str, Any],
) -> dict[str, TableReport]:
    """Write the run; it appears under its name only when complete.

    Args:
        migration: Checked.
        out: Its folder.
        features: Contents of `features.yaml` and of the plans beside it, by name of the file.
        more: To be added to the report.

    Raises:
        OutputError: it cannot be made.
    """
    with new_folder(out) as partial:
        reports = migration.write(partial / "checkpoints" / "last.ckpt")
        for name, content in features.items():
            (partial / name).write_bytes(content)
        config = json.dumps(dict(migration.manifest.config), indent=2)
        (partial / "config.json").write_text(config + "\n")
        report = as_json(migration, reports) | dict(more)
        (partial / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        if dropped := dropped_values(migration):
            _all_dropped(dropped).write_parquet(partial / DROPPED)
    return reports


def migrated(
    checkpoint: Path, schema: FeatureSchema, *, resets: Sequence[str], data: Path | None
) -> Migration:
    """The checked plan.

    Args:
        checkpoint: Directory of the old checkpoint.
        schema: The new schema.
        resets: What was given up by name.
        data: Directory of the raw files that the new run belongs to. None: those of the old one.

    Raises:
        RunConfigError: something cannot be kept that was not given up.
    """
    check_resets(resets, schema.feature_set)
    migration = plan_migration(checkpoint, schema)
    check_given_up(migration, resets)
    config = dict(migration.manifest.config)
    config["run"] = {**config.get("run", {}), "continue_from": str(checkpoint)}
    if data is not None:
        config["data"] = {**config.get("data", {}), "data_dir": str(data.resolve())}
    return replace(migration, manifest=replace(migration.manifest, config=config))


def _all_dropped(dropped: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """One table; values as text, since features differ in type."""
    return pl.concat(
        values.select(
            pl.lit(name).alias("feature"), pl.col("value").cast(pl.String), pl.col("count")
        )
        for name, values in dropped.items()
    )
