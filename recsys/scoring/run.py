"""All parts of a plan: what is missing is scored, here or in worker processes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from features.columns import RESERVED_PREFIX
from features.errors import DataError, OutputError, RunConfigError
from features.schema import FeatureSchema
from recsys.bundle import BundleManifest, bundle_id, read_bundle
from recsys.bundle_items import check_item_names
from recsys.scoring.counts import Counts, added_up
from recsys.scoring.files import find_sources
from recsys.scoring.histories import LogHistories, build_histories, reads_histories
from recsys.scoring.output import SUMMARY, OutputFolder, refuse_other
from recsys.scoring.parts import EventParts, UserParts
from recsys.scoring.plan import Plan, Settings
from recsys.scoring.progress import Progress
from recsys.scoring.reading import EventReader
from recsys.scoring.scorer import Scorer
from recsys.scoring.summary import summarize
from recsys.scoring.workers import score_in_processes, threads_of_each

HISTORIES = "histories"


@dataclass(frozen=True)
class Job:
    """What to score, and how the work is shared out.

    Attributes:
        bundle: An exported model.
        data: Folder, or URL of one, with the files that the feature file names; or the event log.
        out: Folder to make, or to go on with.
        sources: Paths by source, in place of those of the feature file.
        settings: What else decides the output.
        share: Which of how many jobs this is: it scores parts i, i + n, i + 2n, ...
        num_workers: Processes of this job.
        rejects: Whether rows that cannot be scored are written apart, or an error.
    """

    bundle: Path
    data: str
    out: Path
    sources: Mapping[str, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    share: tuple[int, int] = (0, 1)
    num_workers: int = 1
    rejects: bool = False


def score(job: Job) -> dict[str, Any] | None:
    """Score what is missing, and complete the folder if nothing is missing then.

    Args:
        job: What to score.

    Returns:
        The content of `summary.json`; None while other jobs have parts to score.

    Raises:
        DataError: the data is not what the bundle expects.
        OutputError: the output cannot be written, or workers died; what is finished is kept.
        RunConfigError: the output is of something else, or an argument is wrong.
        SchemaMismatchError: the bundle is not whole.
    """
    manifest, schema = read_bundle(job.bundle)
    check_job(job, manifest, schema)
    plan = plan_of(job, schema)
    output = OutputFolder(job.out, plan)
    refuse_other(job.out, plan)
    if output.is_complete:
        shutil.rmtree(output.work, ignore_errors=True)
        return json.loads((job.out / SUMMARY).read_text())
    reader = EventReader(schema, plan)
    output.begin()
    try:
        return _score_missing(job, reader, output, manifest)
    except DataError:
        if job.share == (0, 1):
            output.forget()
        raise


def plan_of(job: Job, schema: FeatureSchema) -> Plan:
    """Find the input and cut it into parts.

    Raises:
        DataError: a source is not there, or a file cannot be read.
    """
    sources = find_sources(schema.feature_set, job.data, given=job.sources)
    return Plan(bundle_id(job.bundle), job.settings, sources)


def open_parts(
    job: Job, reader: EventReader, output: OutputFolder, *, num_threads: int
) -> EventParts | UserParts:
    """What scores single parts; the histories must have been built.

    Args:
        job: What to score.
        reader: Of the log.
        output: Has the histories.
        num_threads: Batches that are scored at once.
    """
    scorer = Scorer(job.bundle, precision=job.settings.precision)
    histories = None
    if reads_histories(reader.schema.feature_set):
        histories = LogHistories(output.work / HISTORIES)
    if scorer.manifest.task == "sequence":
        assert histories is not None, "a sequence bundle has a sequence"
        return UserParts(
            scorer, histories=histories, settings=job.settings, num_threads=num_threads
        )
    return EventParts(
        scorer,
        reader,
        histories=histories,
        settings=job.settings,
        reject=job.rejects,
        num_threads=num_threads,
    )


def _score_missing(
    job: Job, reader: EventReader, output: OutputFolder, manifest: BundleManifest
) -> dict[str, Any] | None:
    log_counts, num_parts = Counts(), reader.num_parts
    is_sequence, sizes = manifest.task == "sequence", _rows_of_parts(output.plan)
    if is_sequence or (
        reads_histories(reader.schema.feature_set) and output.missing(range(num_parts))
    ):
        _make_histories(job, reader, output, is_sequence=is_sequence)
    if is_sequence:
        histories = LogHistories(output.work / HISTORIES)
        log_counts, num_users = histories.read_counts(), len(histories.store.histories or ())
        size = job.settings.users_per_part
        sizes = [min(size, num_users - first) for first in range(0, num_users, size)]
        num_parts = len(sizes)
    missing = output.missing(range(num_parts)[job.share[0] :: job.share[1]])
    if missing:
        noun = "users" if is_sequence else "rows"
        if job.settings.precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
            print(
                "--precision: bf16 is slow here, as this processor has no such operations; "
                "leave it out",
                file=sys.stderr,
            )
        progress = Progress(sum(sizes[part] for part in missing), len(missing), noun=noun)
        if job.num_workers == 1:
            parts = open_parts(job, reader, output, num_threads=threads_of_each(1))
            for part in missing:
                output.write(part, parts.score(part))
                progress.add(sizes[part])
        else:
            for part in score_in_processes(job, output.plan, missing):
                progress.add(sizes[part])
    if output.missing(range(num_parts)):
        return None
    return _complete(output, num_parts, manifest=manifest, log_counts=log_counts)


def _complete(
    output: OutputFolder, num_parts: int, *, manifest: BundleManifest, log_counts: Counts
) -> dict[str, Any]:
    counts = added_up([log_counts, *(output.read_counts(part) for part in range(num_parts))])
    if counts.read != output.plan.num_rows:
        raise OutputError(
            f"{output.path}: rows are lost, got {counts.read}; the input has "
            f"{output.plan.num_rows}; remove it, and score again"
        )
    summary = summarize(counts, manifest, bundle=output.plan.bundle)
    output.complete(num_parts, summary=summary)
    return summary


def _make_histories(
    job: Job, reader: EventReader, output: OutputFolder, *, is_sequence: bool
) -> None:
    """Build them once; other processes wait."""
    path = output.work / HISTORIES
    with output.lock:
        if path.is_dir():
            return
        for abandoned in output.work.glob(f"{HISTORIES}.*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        num_rows = output.plan.num_rows
        progress = Progress(num_rows, reader.num_parts, noun="rows of histories")
        try:
            built = build_histories(reader, path, num_rows=num_rows, reject=job.rejects)
            for events, rejects in built:
                if is_sequence:
                    output.write_rejects(events.part, rejects)
                progress.add(events.num_read)
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written, got {error.strerror or error}; make room, and run "
                f"again"
            ) from None


def _rows_of_parts(plan: Plan) -> list[int]:
    return [sum(piece.num_rows for piece in pieces) for pieces in plan.parts]


def check_job(job: Job, manifest: BundleManifest, schema: FeatureSchema) -> None:
    """Check what can be checked without data.

    Raises:
        RunConfigError: an argument is wrong, or the bundle ranks items that have no names.
    """
    if manifest.task == "sequence":
        check_item_names(schema)
    settings, names = job.settings, job.settings.key_columns
    mistakes = [
        f"{option}: is no number of {what}, got {value}; allowed 1 and more"
        for option, what, value in (
            ("-k", "items", settings.places),
            ("--part-rows", "rows", min(settings.rows_per_part, settings.users_per_part)),
            ("--workers", "processes", job.num_workers),
        )
        if value < 1
    ]
    if manifest.task == "ranking" and settings.places != Settings.places:
        mistakes.append(
            f"-k: a ranking bundle scores each event, got {settings.places}; leave it out"
        )
    if manifest.task == "sequence" and names:
        mistakes.append(
            f"--columns: a sequence bundle gives users and items, "
            f"got {', '.join(names)}; leave it out"
        )
    mistakes += [
        f"--columns: is named twice, got {name!r}; name it once"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    mistakes += [
        f"--columns: is the name of a score, got 'score_{label}'; rename the column in the data"
        for label in manifest.labels
        if f"score_{label}" in names
    ]
    mistakes += [
        f"--columns: no column's name begins with '{RESERVED_PREFIX}', got {name!r}; leave it out"
        for name in names
        if name.startswith(RESERVED_PREFIX)
    ]
    if mistakes:
        raise RunConfigError(mistakes)


def share_of_environment() -> tuple[int, int] | None:
    """The share of a process that torchrun started."""
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    return None if rank is None or world_size is None else (int(rank), int(world_size))
