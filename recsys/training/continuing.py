"""Training that goes on from what another run has learned, on the ids that it knew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from features.errors import SchemaMismatchError
from features.schema import FeatureSchema
from features.spec import FeatureSet
from recsys.checkpoint import read_schema
from recsys.training.task import OptimizerFactory


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


def state_keys(factory: OptimizerFactory) -> set[str]:
    """What an optimiser keeps beside each parameter, found by a step that moves nothing.

    Args:
        factory: Makes the optimiser.
    """
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = factory([parameter])
    parameter.grad = torch.zeros(1)
    optimizer.step()
    return set(optimizer.state[parameter])
