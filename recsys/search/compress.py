"""From a first training to the feature file of the next: the plans of its tables."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML
from torch import Tensor

from features.fingerprint import fingerprint_ids
from features.load import parse_feature_set
from features.plans import copy_plans
from features.table_plan import write_plan
from features.table_spec import StagedTable
from recsys.checkpoint import Manifest, read_manifest
from recsys.search.evolution import EvolutionConfig
from recsys.search.sample import validation_sample
from recsys.search.supernet import Supernet
from recsys.search.widths import WidthSearch
from recsys.tables.config import TablesConfig
from recsys.tables.schemes import staged_schemes
from recsys.tables.staged import SearchedScheme, StagedScheme
from recsys.trained import load_task
from recsys.training.ranking import RankingTask
from recsys.training.task import Task

COMPRESSED, SEARCHED = "features.yaml", "search.json"


def staged_scheme(table: StagedTable) -> type[StagedScheme]:
    """The scheme of a table that is trained in stages."""
    return staged_schemes()[type(table)]


def compress(
    checkpoint: Path, directory: Path, *, evolution: EvolutionConfig, max_examples: int
) -> None:
    """Write the plans of all staged tables, then the feature file that names them.

    Does nothing where that file is there.

    Args:
        checkpoint: Of the first training.
        directory: Where to write.
        evolution: How widths are searched, where the tables need them.
        max_examples: Validation rows at most, by which widths are judged.

    Raises:
        RecsysError: the checkpoint is damaged, or the validation rows cannot be read.
    """
    if (directory / COMPRESSED).is_file():
        return
    directory.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(checkpoint)
    task = load_task(checkpoint, manifest)
    schemes = _staged(task)
    searched = {n: s for n, s in schemes.items() if isinstance(s, SearchedScheme)}
    if searched:
        assert isinstance(task, RankingTask), "checked before the first training"
        sample = validation_sample(task, checkpoint, manifest, max_examples=max_examples)
        supernet = Supernet(task, sample, searched, dense_max_bytes=_dense_max_bytes(manifest))
        search = WidthSearch(supernet, evolution, seed=task.seed, file=directory / SEARCHED)
        for name, widths in search.widths(search.run().genes).items():
            searched[name].chosen = widths
    for name, scheme in schemes.items():
        plan = scheme.plan(_weights(task, scheme))
        plan = replace(plan, ids=fingerprint_ids(task.schema, name))
        write_plan(plan, directory / plan_file(name))
    source = checkpoint.parent.parent / "features.yaml"
    copy_plans(task.schema.feature_set, source=source.parent, target=directory)
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


def _weights(task: Task, scheme: StagedScheme) -> dict[str, Tensor]:
    weights = task.embedder.replicated.weights
    return {table.name: weights[table.name].detach() for table in scheme.physical_tables}


def _dense_max_bytes(manifest: Manifest) -> int:
    """Size of tables that the run shards."""
    tables = manifest.config["model"]["init_args"].get("tables") or {}
    return tables.get("dense_max_bytes", TablesConfig().dense_max_bytes)
