"""What finds events in histories, by itself: `python -m recsys export-search RUN --out DIR`.

It measures how many of the events that vectors of 32 bits find codes of 8 bits find too, on the
validation rows of the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import torch

from features.errors import FeatureConfigError, RecsysError, RunConfigError
from features.sizes import format_bytes
from recsys.checkpoint import find_checkpoint, read_manifest
from recsys.history_index import DType, HistoryIndex, Vectors
from recsys.new_folder import check_out, new_folder
from recsys.nn.cutting import num_events, to_own_histories
from recsys.nn.events import Events
from recsys.nn.history_columns import HistoryColumns
from recsys.run_data import data_of_run
from recsys.trained import load_task
from recsys.training.ranking import RankingTask
from recsys.training.task import Task
from recsys.types import Batch

_VERSIONED = ("recsys", "torch")
_EXAMPLES = 2000


@dataclass(frozen=True)
class Recall:
    """Of one search measured by another.

    Attributes:
        found: Events that both keep.
        wanted: Events that the other one keeps.
        num_examples: Examples with more events than are kept; others leave nothing to choose.
    """

    found: int = 0
    wanted: int = 0
    num_examples: int = 0

    def __add__(self, other: Recall) -> Recall:
        return Recall(
            self.found + other.found,
            self.wanted + other.wanted,
            self.num_examples + other.num_examples,
        )


def history_index(task: Task) -> HistoryIndex:
    """What a trained ranker searches histories with, in 32 bits.

    Raises:
        RunConfigError: it does not search by scaled dot products.
        FeatureConfigError: a column of its history has no vector for each of its ids.
    """
    searching = task.searching if isinstance(task, RankingTask) else None
    age_scores_A = None if searching is None else searching.age_scores_A()
    if searching is None or age_scores_A is None:
        raise RunConfigError(
            f"RUN: does not search histories by dot products, got {_model_name(task)}; allowed "
            f"DARE, or HistoryRanker with attention: scaled_dot, search: scores and no projections"
        )
    columns = searching.columns
    _check_columns(task, columns)
    events, targets = {}, {}
    for name, event, target in zip(
        columns.names, columns.events("attention"), columns.targets("attention"), strict=True
    ):
        events[name] = targets[name] = _vectors(task, event)
        of_targets = _vectors(task, target)
        if not torch.equal(of_targets.values_VD, events[name].values_VD):
            targets[name] = of_targets
    assert searching.max_kept is not None, "it searches"
    return HistoryIndex(columns.sequence, events, targets, age_scores_A, searching.max_kept)


def _model_name(task: Task) -> str:
    model = task.ranker if isinstance(task, RankingTask) else task.encoder
    return type(model).__name__


def _check_columns(task: Task, columns: HistoryColumns) -> None:
    mistakes = []
    for name in columns.names:
        if task.schema.num_ids(name) is None:
            mistakes.append(
                f"features.{name}: a search needs a vector of each id, got ids without bound; use "
                f"encoding vocab, or leave it out of {columns.sequence}"
            )
        if task.schema.is_multi_valued(name):
            mistakes.append(
                f"features.{name}: a search reads one id per event, got lists; leave it out of "
                f"{columns.sequence}"
            )
    if mistakes:
        raise FeatureConfigError(mistakes)


@torch.no_grad()
def _vectors(task: Task, key: str) -> Vectors:
    num_ids = task.schema.num_ids(task.embedder.readers[key].column.rpartition(".")[2])
    assert num_ids is not None, "checked"
    return Vectors(task.embedder.catalogue(key, num_ids=num_ids).detach())


def recall(index: HistoryIndex, exact: HistoryIndex, batch: Batch) -> Recall:
    """How many of the events that one search keeps another one keeps too.

    Args:
        index: The one.
        exact: The other.
        batch: Of examples with histories.
    """
    batch = to_own_histories(batch)
    assert batch.ids is not None
    assert batch.sequences is not None, "a batch with histories"
    ids, past = batch.ids.to_dict(), batch.sequences.to_dict()
    keys = {name: f"{index.sequence}.{name}" for name in index.events}
    targets = {name: ids[name].values() for name in keys}
    events = {name: past[key].values() for name, key in keys.items()}
    lengths_B = num_events(batch, next(iter(keys.values())))
    counts_B = (lengths_B > index.top_k) & (batch.weights_B > 0)
    ours, theirs = (_tokens(i.search(targets, events, lengths_B), counts_B) for i in (index, exact))
    return Recall(int(torch.isin(ours, theirs).sum()), len(theirs), int(counts_B.sum()))


def _tokens(found: Events, counts_B: torch.Tensor) -> torch.Tensor:
    return found.token_BK[found.is_event_BK & counts_B.unsqueeze(1)]


def export_search(checkpoint: Path, out: Path, *, dtype: DType) -> list[str]:
    """Write the search of a checkpoint; it appears under its name only when complete.

    Args:
        checkpoint: Directory of a checkpoint.
        out: Directory to make.
        dtype: How numbers are stored.

    Returns:
        What there is to say of it.

    Raises:
        RecsysError: it exists already, or cannot be made of this checkpoint.
    """
    check_out(out)
    manifest = read_manifest(checkpoint)
    task = load_task(checkpoint, manifest)
    exact = history_index(task)
    index = exact if dtype == "fp32" else exact.to_int8()
    with new_folder(out) as partial:
        index.save(partial, schema=task.schema, versions={n: version(n) for n in _VERSIONED})
    said = [f"exported {out}: {format_bytes(index.num_bytes)} of vectors, {dtype}"]
    if index is exact:
        return said
    try:
        data = data_of_run(checkpoint, manifest)
        data.require_examples("val")
    except RecsysError as error:
        return [*said, f"recall is not known, it needs the run's data: {error}"]
    measured, seen = Recall(), 0
    for batch in data.val_dataloader():
        measured += recall(index, exact, batch)
        seen += len(batch)
        if seen >= _EXAMPLES:
            break
    k = index.top_k
    if not measured.wanted:
        return [*said, f"recall@{k} is 1: no history of {seen:,} examples has more than {k} events"]
    share = measured.found / measured.wanted
    rows = f"{measured.num_examples:,} validation examples with more than {k} events"
    return [*said, f"recall@{k} of {dtype} against fp32: {share:.4f}, on {rows}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser("python -m recsys export-search", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run or of a checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--dtype", choices=get_args(DType), default="int8", help="how numbers are stored"
    )
    options = parser.parse_args(arguments)
    try:
        said = export_search(find_checkpoint(options.run), options.out, dtype=options.dtype)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(said))
    return 0
