"""From a first training to the feature file of the next: the plans of its tables."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from features.fingerprint import fingerprint_ids
from features.load import parse_feature_set
from features.table_plan import write_plan
from features.table_spec import StagedTable
from recsys.checkpoint import read_manifest
from recsys.tables.schemes import staged_schemes
from recsys.tables.staged import StagedScheme
from recsys.trained import load_task
from recsys.training.task import Task

COMPRESSED = "features.yaml"


def staged_scheme(table: StagedTable) -> type[StagedScheme]:
    """The scheme of a table that is trained in stages."""
    return staged_schemes()[type(table)]


def compress(checkpoint: Path, directory: Path) -> None:
    """Write the plans of all staged tables, then the feature file that names them.

    Does nothing where that file is there.

    Args:
        checkpoint: Of the first training.
        directory: Where to write.

    Raises:
        CheckpointMismatchError: the checkpoint is damaged.
    """
    if (directory / COMPRESSED).is_file():
        return
    task = load_task(checkpoint, read_manifest(checkpoint))
    schemes = _staged(task)
    for name, scheme in schemes.items():
        weights = task.embedder.replicated.weights
        whole = {t.name: weights[t.name].detach() for t in scheme.physical_tables}
        plan = replace(scheme.plan(whole), ids=fingerprint_ids(task.schema, name))
        write_plan(plan, directory / plan_file(name))
    source = checkpoint.parent.parent / "features.yaml"
    text = with_planned_tables(source.read_text(), {n: s.storage for n, s in schemes.items()})
    unfinished = directory / f"{COMPRESSED}.unfinished"
    unfinished.write_text(text)
    unfinished.replace(directory / COMPRESSED)


def plan_file(table: str) -> str:
    """Name of the file of a table's plan."""
    return f"{table}.plan.safetensors"


def with_planned_tables(text: str, storage: dict[str, str]) -> str:
    """A feature file whose staged tables are replaced by planned ones.

    Args:
        text: Of the feature file.
        storage: Scheme of the planned table, by table.
    """
    yaml = YAML()  # keeps comments and order
    content = yaml.load(text)
    for name, scheme in storage.items():
        before = content["tables"][name]
        kept = {key: value for key, value in before.items() if key == "dim"}
        content["tables"][name] = {"scheme": scheme, **kept, "plan": plan_file(name)}
    written = StringIO()
    yaml.dump(content, written)
    parse_feature_set(written.getvalue(), name=COMPRESSED)
    return written.getvalue()


def _staged(task: Task) -> dict[str, StagedScheme]:
    schemes = task.embedder.schemes.items()
    return {name: scheme for name, scheme in schemes if isinstance(scheme, StagedScheme)}
