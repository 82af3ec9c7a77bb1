"""Plans of the tables of a feature file, from the files beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from features.errors import FeatureConfigError
from features.fingerprint import fingerprint_ids
from features.schema import FeatureSchema
from features.spec import FeatureSet
from features.table_plan import read_plan
from features.table_spec import PlannedTable


def plan_files(feature_set: FeatureSet, folder: Path) -> dict[str, Path]:
    """Where the plans of planned tables lie, by table.

    Args:
        feature_set: Names them.
        folder: Of the feature file.
    """
    return {
        name: folder / table.plan
        for name, table in feature_set.tables.items()
        if isinstance(table, PlannedTable)
    }


def copy_plans(feature_set: FeatureSet, *, source: Path, target: Path) -> None:
    """Put the plans of planned tables beside a copy of their feature file.

    Args:
        feature_set: Names them.
        source: Folder of the feature file.
        target: Folder of the copy.
    """
    for plan in plan_files(feature_set, source).values():
        (target / plan.name).write_bytes(plan.read_bytes())


def with_plans(schema: FeatureSchema, folder: Path) -> FeatureSchema:
    """The schema with the plans of its planned tables.

    Args:
        schema: Fitted.
        folder: Of its feature file.

    Raises:
        FeatureConfigError: a plan cannot be read, or belongs to another table.
    """
    plans, mistakes = {}, []
    for name, path in plan_files(schema.feature_set, folder).items():
        try:
            plan = read_plan(path)
        except FeatureConfigError as error:
            mistakes += [f"tables.{name}.plan: {mistake}" for mistake in error.mistakes]
            continue
        scheme = schema.feature_set.tables[name].scheme
        if plan.scheme != scheme:
            mistakes.append(
                f"tables.{name}.plan: {path} is for another scheme, got {plan.scheme}; allowed "
                f"{scheme}; take the plan that was written for this table"
            )
        elif plan.ids != fingerprint_ids(schema, name):
            mistakes.append(
                f"tables.{name}.plan: {path} was made for ids of other values; take the features "
                f"and data that it was made with, or make it anew with `python -m recsys search`"
            )
        plans[name] = plan
    if mistakes:
        raise FeatureConfigError(mistakes)
    return replace(schema, plans=plans)
