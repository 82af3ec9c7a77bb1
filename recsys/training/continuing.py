"""Training that goes on from what another run has learned, on the ids that it knew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from features.errors import SchemaMismatchError
from features.fingerprint import fingerprint_ids
from features.schema import FeatureSchema
from features.spec import FeatureSet
from recsys.checkpoint import read_manifest, read_schema
from recsys.tables.logical import OUTPUT_SUFFIX
from recsys.training.task import Task


def continued_schema(checkpoint: Path, feature_set: FeatureSet, *, file: Path) -> FeatureSchema:
    """The schema of a checkpoint, for the present feature file.

    Args:
        checkpoint: That training continues.
        feature_set: The present feature file.
        file: Where it lies, for the message.

    Raises:
        SchemaMismatchError: the files say different things of features or tables.
    """
    before = read_schema(checkpoint)
    found = sorted(set(_differences(before.feature_set, feature_set)))
    schema = replace(before, feature_set=feature_set)
    if not found and schema.fingerprint() != before.fingerprint():
        found = ["entity or sources"]
    if found:
        raise SchemaMismatchError(
            f"run.continue_from: {checkpoint} was trained with another feature file, got a "
            f"difference in {', '.join(found)}; allowed that of the checkpoint; carry it over "
            f"first with `python -m recsys migrate {checkpoint} --features {file} --out RUN2`, "
            f"then continue from RUN2"
        )
    return schema


def tables_of_other_ids(
    before: FeatureSchema, now: FeatureSchema, *, names: Iterable[str]
) -> set[str]:
    """Tables of which an id is another value than it was.

    Args:
        before: The schema that rows were learned under.
        now: The present one.
        names: Tables as they are stored: of a role, and of the output, each has its own.
    """

    def is_other(name: str) -> bool:
        table = _in_file(name, now.feature_set)
        return fingerprint_ids(before, table) != fingerprint_ids(now, table)

    return {name for name in names if is_other(name)}


def _in_file(name: str, feature_set: FeatureSet) -> str:
    """The table of the feature file that a stored one is of."""
    table = name.partition("@")[0]
    return table if table in feature_set.resolved_tables() else table.removesuffix(OUTPUT_SUFFIX)


def check_checkpoint(task: Task, directory: Path) -> None:
    """Refuse a checkpoint that is not of this task's features, rows and labels.

    Raises:
        SchemaMismatchError: features are encoded otherwise, or features or labels stand elsewhere.
        CheckpointMismatchError: tables are laid out in another way.
    """
    task.check_schema(read_manifest(directory), where=str(directory))
    check_order(read_schema(directory).feature_set, task.schema.feature_set, where=str(directory))


def check_order(before: FeatureSet, now: FeatureSet, *, where: str) -> None:
    """Refuse features or labels at other places than those that layers were trained for.

    Raises:
        SchemaMismatchError: says which.
    """
    mistakes = []
    for what, old, new in (
        ("features", [f.name for f in before.features], [f.name for f in now.features]),
        ("label", before.labels, now.labels),
    ):
        if list(old) != list(new):
            mistakes.append(
                f"{where}: was trained with {what} in another order or under other names, got "
                f"{', '.join(new)}; allowed {', '.join(old)}; use the feature file of the "
                f"checkpoint, or carry the run over with `python -m recsys migrate`"
            )
    if mistakes:
        raise SchemaMismatchError(mistakes)


def _differences(before: FeatureSet, now: FeatureSet) -> Iterator[str]:
    """Where two feature files differ in what a checkpoint hangs on."""
    old = {feature.name: feature for feature in before.features}
    new = {feature.name: feature for feature in now.features}
    yield from (
        f"features.{name}" for name in old.keys() | new.keys() if old.get(name) != new.get(name)
    )
    if list(old) != list(new):
        yield "the order of the features"
    tables = before.resolved_tables(), now.resolved_tables()
    yield from (
        f"tables.{name}"
        for name in tables[0].keys() | tables[1].keys()
        if tables[0].get(name) != tables[1].get(name)
    )
    if before.labels != now.labels:
        yield "label"
