"""Probes for features of unified tables: `python -m recsys propose-probes RUN`.

Starts from the number of ids of each feature, measures on validation rows how much AUC is lost when
a feature is shuffled, and gives further probes to those that are worth it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

from rich.console import Console
from rich.table import Table

from features.errors import DataError, RecsysError, RunConfigError
from recsys.checkpoint import find_checkpoint, read_manifest
from recsys.search.feature_line import feature_line
from recsys.search.probes import Candidate, propose
from recsys.search.salience import salience
from recsys.search.sample import validation_sample
from recsys.tables.schemes.unified import UnifiedScheme
from recsys.trained import load_task
from recsys.training.ranking import RankingTask
from recsys.types import FieldLayout

_EXAMPLES = 100_000


@dataclass(frozen=True)
class Proposal:
    """Probes of all features of unified tables.

    Attributes:
        candidates: The features as they are.
        probes: What is proposed, by feature.
        label: Whose AUC was measured.
        auc: With no feature shuffled.
        num_examples: Rows it was measured on.
        widths: Of the ranker's input, dense features included: now, and as proposed.
        lines: Features as they are to stand in the feature file, where they change.
        refusal: What the ranker says of such widths; empty where it takes them.
    """

    candidates: tuple[Candidate, ...]
    probes: Mapping[str, int]
    label: str
    auc: float
    num_examples: int
    widths: tuple[int, int]
    lines: tuple[str, ...]
    refusal: str


def propose_probes(run: Path, *, max_dim: int | None) -> Proposal:
    """Measure a run, and propose.

    Args:
        run: Folder of a run, or of a checkpoint.
        max_dim: Most dimensions of the ranker's input. None: one probe is given.

    Raises:
        RecsysError: it is no run of a ranker with a unified table, or its data is gone.
    """
    checkpoint = find_checkpoint(run)
    manifest = read_manifest(checkpoint)
    task = load_task(checkpoint, manifest)
    if not isinstance(task, RankingTask):
        raise RunConfigError(
            f"RUN: was trained by a {type(task).__name__}, got {run}; allowed runs of a "
            f"RankingTask, whose AUC says what a feature is worth"
        )
    if task.ranker.reads_histories:
        raise RunConfigError(
            f"RUN: {type(task.ranker).__name__} reads histories event by event, got {run}; allowed "
            f"rankers of one vector per feature; train one of these on the same features"
        )
    columns = _columns(task)
    if not columns:
        raise RunConfigError(
            f"RUN: no feature reads a unified table, got {run}; only these have probes; store a "
            f"table with `scheme: unified`"
        )
    sample = validation_sample(task, checkpoint, manifest, max_examples=_EXAMPLES)
    auc, drops = salience(task.ranker, sample, columns)
    if isnan(auc):
        raise DataError(
            f"RUN: AUC is undefined, got validation rows of one class of {task.labels[0]}; change "
            f"split or label in the feature file"
        )
    candidates = tuple(_candidate(task, f, keys, drops[f]) for f, keys in columns.items())
    now = task.layout.width
    others = now - sum(c.probes * c.width for c in candidates)
    probes = propose(candidates, other_width=others, max_dim=max_dim)
    layout = _layout(task, columns, probes)
    changed = [c.feature for c in candidates if probes[c.feature] != c.probes]
    feature_set = task.schema.feature_set
    return Proposal(
        candidates=candidates,
        probes=probes,
        label=task.labels[0],
        auc=auc,
        num_examples=len(sample),
        widths=(now, layout.width),
        lines=tuple(feature_line(feature_set.feature(f), probes=probes[f]) for f in changed),
        refusal=_refusal(task, layout),
    )


def _columns(task: RankingTask) -> dict[str, list[str]]:
    """Fields by feature of unified tables: its own, and those of sequences of it.

    A feature that is like another may not choose its probes, and is left as it is.
    """
    found: dict[str, list[str]] = {}
    for key in task.layout.fields:
        feature = key.rpartition(".")[2]
        is_unified = isinstance(task.embedder.schemes[task.embedder.scheme_of[key]], UnifiedScheme)
        if is_unified and task.embedder.readers[key].namespace == feature:
            found.setdefault(feature, []).append(key)
    return found


def _candidate(task: RankingTask, feature: str, keys: Sequence[str], drop: float) -> Candidate:
    readers = [task.embedder.readers[key] for key in keys]
    probes = readers[0].probes
    return Candidate(
        feature=feature,
        num_ids=readers[0].num_ids,
        probes=probes,
        width=sum(task.layout.fields[key] // probes for key in keys),
        drop=drop,
    )


def _layout(
    task: RankingTask, columns: Mapping[str, Sequence[str]], probes: Mapping[str, int]
) -> FieldLayout:
    widths = dict(task.layout.fields)
    for feature, keys in columns.items():
        for key in keys:
            widths[key] = widths[key] // task.embedder.readers[key].probes * probes[feature]
    return replace(task.layout, fields=widths)


def _refusal(task: RankingTask, layout: FieldLayout) -> str:
    try:
        task.ranker_factory(layout)
    except ValueError as error:
        return str(error)
    return ""


# -------------------------------------------------------------------------------------- shown
def table_to_print(proposal: Proposal) -> Table:
    """A row per feature, the most valuable first."""
    title = f"val/auc/{proposal.label}: {proposal.auc:.4f} on {proposal.num_examples:,} rows"
    table = Table("feature", title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("ids", "drop of AUC", "probes now", "proposed"):
        table.add_column(column, justify="right")
    for c in sorted(proposal.candidates, key=lambda c: -c.drop):
        ids = "any" if c.num_ids is None else f"{c.num_ids:,}"
        proposed = str(proposal.probes[c.feature])
        table.add_row(c.feature, ids, f"{c.drop:.4f}", str(c.probes), proposed)
    return table


def words(proposal: Proposal) -> list[str]:
    """Widths, what to paste, and what follows from it."""
    now, then = proposal.widths
    found = [f"width of the ranker's input: {now} now, {then} as proposed"]
    if proposal.refusal:
        found.append(f"this ranker cannot read them so: {proposal.refusal}")
    if not proposal.lines:
        return [*found, "the probes are as proposed already"]
    return [
        *found,
        "in place of these entries of features, in the feature file:",
        *proposal.lines,
        "other probes mean other rows and another model: train anew",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        "python -m recsys propose-probes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run or of a checkpoint")
    parser.add_argument(
        "--max-dim",
        type=int,
        metavar="N",
        help="most dimensions of the ranker's input; without, one probe is given beyond the start",
    )
    options = parser.parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    try:
        proposal = propose_probes(options.run, max_dim=options.max_dim)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    Console(highlight=False).print(table_to_print(proposal), "")
    print("\n".join(words(proposal)))
    return 0
