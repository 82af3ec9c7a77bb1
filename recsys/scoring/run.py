"""All parts of a plan: what is missing is scored, here or in worker processes."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from features.errors import DataError, OutputError
from recsys.bundle import BundleManifest, read_bundle
from recsys.scoring.counts import Counts, added_up
from recsys.scoring.histories import LogHistories, build_histories, histories_path, reads_histories
from recsys.scoring.job import Job, check_job, plan_of
from recsys.scoring.output import OutputFolder, refuse_other
from recsys.scoring.plan import Plan
from recsys.scoring.progress import Progress
from recsys.scoring.reading import EventReader
from recsys.scoring.summary import summarize
from recsys.scoring.workers import score_in_processes, threads_of_each


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
    check_job(job, manifest)
    plan = plan_of(job, schema)
    output = OutputFolder(job.out, plan)
    refuse_other(job.out, plan)
    if output.is_complete:
        output.reopen()
    if output.is_complete:
        shutil.rmtree(output.work, ignore_errors=True)
        return output.read_summary()
    reader = EventReader(schema, plan)
    output.begin()
    try:
        return _score_missing(job, reader, output, manifest)
    except DataError:
        if job.share == (0, 1):
            output.forget()
        raise
    except OSError:
        if output.is_complete:  # others have scored the rest, and taken away what is read here
            return output.read_summary()
        raise


def _score_missing(
    job: Job, reader: EventReader, output: OutputFolder, manifest: BundleManifest
) -> dict[str, Any] | None:
    log_counts, num_parts = Counts(), reader.num_parts
    is_sequence, sizes = manifest.task == "sequence", _rows_of_parts(output.plan)
    if is_sequence or (
        reads_histories(reader.schema.feature_set) and output.missing(range(num_parts))
    ):
        _make_histories(job, reader, output, is_sequence=is_sequence)
    if output.is_complete:  # by others, since
        return output.read_summary()
    if is_sequence:
        histories = LogHistories(histories_path(output.work, rejects=job.rejects))
        log_counts, num_users = histories.read_counts(), len(histories.store.histories or ())
        size = job.settings.users_per_part
        sizes = [min(size, num_users - first) for first in range(0, max(1, num_users), size)]
        num_parts = len(sizes)
    missing = output.missing(range(num_parts)[job.share[0] :: job.share[1]])
    if missing:
        noun = "users" if is_sequence else "rows"
        if job.settings.precision == "bf16":
            _warn_of_slow_bf16()
        progress = Progress(sum(sizes[part] for part in missing), len(missing), noun=noun)
        if job.num_workers == 1:
            from recsys.scoring.parts import open_parts  # torch, which workers load themselves

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
    path = histories_path(output.work, rejects=job.rejects)
    with output.lock:
        if path.is_dir() or output.is_complete:
            return
        for abandoned in output.work.glob(f"{path.name}.*"):
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


def _warn_of_slow_bf16() -> None:
    import torch

    if not torch.cpu._is_avx512_bf16_supported():
        print(
            "--precision: bf16 is slow here, as this processor has no such operations; leave it "
            "out",
            file=sys.stderr,
        )
