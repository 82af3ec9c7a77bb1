"""What a run would read and write, and the scores of a few rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from recsys.bundle import read_bundle
from recsys.scoring.files import InputFile
from recsys.scoring.histories import build_histories, histories_path, reads_histories
from recsys.scoring.job import Job, check_job, plan_of
from recsys.scoring.output import OutputFolder, refuse_other
from recsys.scoring.parts import open_parts
from recsys.scoring.plan import Piece, Plan
from recsys.scoring.reading import EventReader

_SAMPLE, _SHOWN, _FILES = 1000, 5, 3


def describe(job: Job) -> Iterator[str]:
    """Lines for people; nothing is written.

    Args:
        job: What would be scored.

    Raises:
        RecsysError: what the run itself would raise before it scores, or of the first rows.
    """
    manifest, schema = read_bundle(job.bundle)
    check_job(job, manifest)
    plan = plan_of(job, schema)
    refuse_other(job.out, plan)
    reader = EventReader(schema, plan)
    output = OutputFolder(job.out, plan)
    yield f"bundle: {job.bundle}, id {plan.bundle}, {manifest.task}"
    for name, files in plan.sources.items():
        yield _of_source(name, files)
    yield f"columns of events: {', '.join(reader.columns)}"
    num_parts = reader.num_parts
    if manifest.task == "ranking":
        left = len(output.missing(range(num_parts)))
        yield f"parts: {num_parts} of up to {job.settings.rows_per_part:,} rows, {left} to score"
    else:
        yield f"parts: of up to {job.settings.users_per_part:,} users, counted when they are read"
    yield from _sample(job, reader, plan).splitlines()
    if reads_histories(schema.feature_set):
        yield f"histories of this sample reach no further than its {_SAMPLE:,} rows"


def _of_source(name: str, files: tuple[InputFile, ...]) -> str:
    num_bytes, num_rows = sum(f.num_bytes for f in files), sum(f.num_rows for f in files)
    named = ", ".join(f.path for f in files[:_FILES]) + (", ..." if len(files) > _FILES else "")
    return f"{name}: {len(files):,} files, {num_rows:,} rows, {num_bytes:,} bytes: {named}"


def _sample(job: Job, reader: EventReader, plan: Plan) -> str:
    """The first rows, scored as if there were no others."""
    first = plan.parts[0][0]
    piece = Piece(first.file, first.start, min(first.num_rows, _SAMPLE), 0)
    reader.parts = [(piece,)]
    with TemporaryDirectory() as folder:
        output = OutputFolder(Path(folder), plan)
        if reads_histories(reader.schema.feature_set):
            path = histories_path(output.work, rejects=job.rejects)
            list(build_histories(reader, path, num_rows=piece.num_rows, reject=job.rejects))
        settings = replace(job.settings, users_per_part=_SAMPLE)
        job = replace(job, settings=settings)
        parts = open_parts(job, reader, output, num_threads=1)
        frame = parts.score(0).frame
        if frame.is_empty():
            return f"nothing to score in the first {piece.num_rows:,} rows; the others are not read"
        return str(frame.head(_SHOWN))
