"""Looking at the tables of a trained run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from features.errors import RecsysError
from recsys.checkpoint import find_checkpoint, read_manifest
from recsys.search.gradients import gradient_moments
from recsys.search.sample import validation_sample
from recsys.tables.diagnosis import TableDiagnosis, diagnose
from recsys.trained import load_task
from recsys.training.ranking import RankingTask

_EXAMPLES = 20_000


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        tables: In the order of the feature file.
        num_examples: Rows that angles were measured on.
        no_angles: Why there are none; empty where there are.
    """

    tables: tuple[TableDiagnosis, ...]
    num_examples: int = 0
    no_angles: str = ""


def inspect_tables(run: Path) -> Inspection:
    """Diagnose the tables of a run.

    Args:
        run: Folder of a run, or of a checkpoint.

    Raises:
        RecsysError: it is no run, or its checkpoint cannot be loaded.
    """
    checkpoint = find_checkpoint(run)
    manifest = read_manifest(checkpoint)
    task = load_task(checkpoint, manifest)
    if not isinstance(task, RankingTask) or task.ranker.reads_histories:
        why = "angles between readers are measured on rankers of one vector per feature only"
        return Inspection(diagnose(task.embedder, task.schema, moments=None), no_angles=why)
    try:
        sample = validation_sample(task, checkpoint, manifest, max_examples=_EXAMPLES)
    except RecsysError as error:
        why = f"angles between readers need the run's data: {'; '.join(error.mistakes)}"
        return Inspection(diagnose(task.embedder, task.schema, moments=None), no_angles=why)
    moments = gradient_moments(task.ranker, sample)
    return Inspection(
        diagnose(task.embedder, task.schema, moments=moments), num_examples=len(sample)
    )
