"""A trained ranker that reads histories, with the data of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from features.errors import RunConfigError, did_you_mean
from models.history_ranker import HistoryRanker
from recsys.checkpoint import Manifest, find_checkpoint, read_manifest
from recsys.data.module import RecsysData
from recsys.run_data import data_of_run
from recsys.trained import load_task
from recsys.training.ranking import RankingTask


@dataclass(frozen=True)
class HistoryRun:
    """One of the runs that are looked at.

    Attributes:
        name: To tell it from the others.
        checkpoint: Its directory.
        manifest: Of the checkpoint.
        task: Trained, in evaluation mode.
        data: What it was trained on.
    """

    name: str
    checkpoint: Path
    manifest: Manifest
    task: RankingTask
    data: RecsysData

    @classmethod
    def load(cls, run: Path, *, name: str) -> Self:
        """Load it.

        Args:
            run: Folder of a run, or of a checkpoint.
            name: To tell it from others.

        Raises:
            RecsysError: it is no run of a ranker that reads histories, or its data is gone.
        """
        checkpoint = find_checkpoint(run)
        manifest = read_manifest(checkpoint)
        task = load_task(checkpoint, manifest)
        if not isinstance(task, RankingTask) or not isinstance(task.ranker, HistoryRanker):
            got = type(task.ranker if isinstance(task, RankingTask) else task).__name__
            raise RunConfigError(
                f"RUN: reads no history with a target in view, got {run}, a {got}; allowed runs "
                f"of HistoryRanker, DARE and DIN; train one, see docs/histories.md"
            )
        return cls(name, checkpoint, manifest, task, data_of_run(checkpoint, manifest))

    @property
    def ranker(self) -> HistoryRanker:
        """The model."""
        assert isinstance(self.task.ranker, HistoryRanker)
        return self.task.ranker

    def category(self, wanted: str | None) -> str:
        """The column of the history that is its category.

        Args:
            wanted: A column. None: the last.

        Raises:
            RunConfigError: there is no such column, an event has several of its values, or they
                are too many to count.
        """
        columns = self.ranker.columns
        category = columns.names[-1] if wanted is None else wanted
        if category not in columns.names:
            raise RunConfigError(
                f"--category: {columns.sequence} of {self.name} has no such column, got "
                f"{category!r}; allowed {', '.join(columns.names)}"
                f"{did_you_mean(category, columns.names)}"
            )
        schema = self.data.schema
        several = schema.is_multi_valued(category)
        if several or schema.num_ids(category) is None:
            why = "has several values of an event" if several else "has ids without number"
            raise RunConfigError(
                f"--category: {why}, got {category!r}; allowed columns of one value of a "
                f"vocabulary; choose another of {', '.join(columns.names)}"
            )
        return category


def load_history_runs(runs: Sequence[Path]) -> list[HistoryRun]:
    """Several of them, named after their folders.

    Raises:
        RecsysError: as `HistoryRun.load` does.
    """
    short = [run.resolve().name for run in runs]
    names = [
        name if short.count(name) == 1 else str(run) for name, run in zip(short, runs, strict=True)
    ]
    return [HistoryRun.load(run, name=name) for run, name in zip(runs, names, strict=True)]
