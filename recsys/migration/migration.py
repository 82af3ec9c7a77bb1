"""A checkpoint under another schema: planned as a whole, checked, then written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from features.edits.changes import Difference
from features.edits.diff import compare
from features.edits.renames import same_features, same_named_tables
from features.schema import FeatureSchema
from recsys.checkpoint import Manifest, read_manifest, read_schema, read_trainer_state
from recsys.checkpoint import write_checkpoint as write
from recsys.migration.filling import Filler, TableReport
from recsys.migration.ids import id_sources
from recsys.migration.layers import LayerPlan, Places, plan_layers
from recsys.migration.names import OldNames
from recsys.migration.stored import StoredTensors
from recsys.migration.tables import Edit, TablePlan, file_name, plan_tables
from recsys.trained import unbuilt_task
from recsys.training.ranking import RankingTask
from recsys.training.task import Task

LAYERS = "dense"
"""What `--reset` calls the layers that cannot follow."""

_NOT_OF_A_START = ("loops", "callbacks", "lr_schedulers")


@dataclass(frozen=True)
class Migration:
    """How a checkpoint becomes one of another schema.

    Attributes:
        checkpoint: The old one.
        manifest: Its manifest.
        edit: Schemas and tables before and after.
        tasks: The task of the old schema and that of the new one, with new weights.
        difference: What `diff` says of the edit.
        tables: How each new table is filled.
        layers: How each tensor beside the tables follows.
    """

    checkpoint: Path
    manifest: Manifest
    edit: Edit
    tasks: tuple[Task, Task]
    difference: Difference
    tables: tuple[TablePlan, ...]
    layers: LayerPlan

    def lost(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """What cannot be kept: names by which it may be given up, the best first, and why."""
        for plan in self.tables:
            table = file_name(plan.scheme.table.name)
            features = plan.scheme.table.num_ids_per_namespace()
            is_all = len(plan.lost) == len(features)
            for name, why in plan.lost.items():
                names = (table, name) if is_all else (name, table)
                yield tuple(dict.fromkeys(names)), f"{name!r} cannot be kept: {why}"
        if self.layers.stuck:
            stuck = self.layers.stuck
            names = {why: [n for n, w in stuck.items() if w == why] for why in stuck.values()}
            yield (LAYERS,), "; ".join(f"{why}: {', '.join(n)}" for why, n in names.items())

    def write(self, directory: Path) -> dict[str, TableReport]:
        """Write the new checkpoint; gives what became of each table.

        Args:
            directory: Where it is to lie.
        """
        new = self.tasks[1]
        scratch = directory.with_name(directory.name + ".tables")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            tensors, reports = self._tensors(scratch)
            write(
                directory,
                tensors=tensors,
                trainer=self._trainer_state(),
                manifest=Manifest(
                    step=0,
                    epoch=0,
                    batch_in_epoch=0,
                    schema_fingerprint=new.schema.fingerprint(),
                    config=self.manifest.config,
                    tables=new.table_sizes(),
                    row_meanings=new.embedder.row_meanings(),
                ),
                schema=new.schema,
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return reports

    def _tensors(self, scratch: Path) -> tuple[dict[str, Tensor], dict[str, TableReport]]:
        filler = Filler(
            self.edit, tasks=self.tasks, stored=StoredTensors(self.checkpoint), scratch=scratch
        )
        tensors, reports = filler.layers(self.layers), {}
        for plan in self.tables:
            of_table, reports[plan.scheme.table.name] = filler.table(plan)
            tensors |= of_table
        return tensors, reports

    def _trainer_state(self) -> Mapping[str, object]:
        """That of a training which has not begun."""
        state = read_trainer_state(self.checkpoint)
        kept = {key: value for key, value in state.items() if key not in _NOT_OF_A_START}
        return kept | {"epoch": 0, "global_step": 0, "callbacks": {}, "lr_schedulers": []}


def plan_migration(checkpoint: Path, schema: FeatureSchema) -> Migration:
    """Plan how a checkpoint becomes one of another schema; nothing is written.

    Args:
        checkpoint: Directory of a checkpoint.
        schema: The new schema, which continues that of the checkpoint.

    Raises:
        CheckpointMismatchError: the checkpoint is damaged or of another version of a model.
        FeatureConfigError: the new features cannot serve the model.
    """
    manifest = read_manifest(checkpoint)
    old_schema = read_schema(checkpoint)
    old, new = (_built(unbuilt_task(checkpoint, manifest), each) for each in (old_schema, schema))
    names = OldNames(
        features=same_features(old_schema.feature_set, schema.feature_set),
        tables=same_named_tables(old_schema.feature_set, schema.feature_set),
    )
    edit = Edit(
        old=old_schema,
        new=schema,
        old_embedder=old.embedder,
        new_embedder=new.embedder,
        names=names,
        zero_fields=isinstance(new, RankingTask) and new.ranker.multiplies_fields,
    )
    layers = plan_layers(old, new, names=names, items=_items(edit))
    return Migration(
        checkpoint,
        manifest,
        edit,
        (old, new),
        compare(old_schema, schema),
        plan_tables(edit),
        layers,
    )


def _built(task: Task, schema: FeatureSchema) -> Task:
    # How tables are cut over processes is of no matter here, and names some that may be gone.
    task.tables_config = replace(task.tables_config, sharding={})
    task.build(schema)
    return task


def _items(edit: Edit) -> Places:
    """Old id of each item of the catalogue."""
    item = edit.new.feature_set.entity.item
    if item is None or item not in {f.name for f in edit.new.feature_set.embedded}:
        return np.zeros(0, dtype=np.int64)
    sources = id_sources(edit.old, edit.new, feature=item, names=edit.names.features)
    if sources is None or sources.num_new is None:
        return np.full(edit.new.num_ids(item) or 0, -1, dtype=np.int64)
    return sources.places()
