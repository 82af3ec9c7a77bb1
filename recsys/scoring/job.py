"""What is to be scored, and whether it can be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from features.columns import RESERVED_PREFIX
from features.errors import RunConfigError
from features.schema import FeatureSchema
from recsys.bundle import BundleManifest, bundle_id
from recsys.scoring.files import find_sources
from recsys.scoring.plan import Plan, Settings


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


def check_job(job: Job, manifest: BundleManifest) -> None:
    """Check what can be checked without data.

    Raises:
        RunConfigError: an argument is wrong.
    """
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
        f"--columns: names that begin with '{RESERVED_PREFIX}' are taken, got {name!r}; leave it "
        f"out, or rename the column in the data"
        for name in names
        if name.startswith(RESERVED_PREFIX)
    ]
    if mistakes:
        raise RunConfigError(mistakes)


def plan_of(job: Job, schema: FeatureSchema) -> Plan:
    """Find the input and cut it into parts.

    Raises:
        DataError: a source is not there, or a file cannot be read.
    """
    sources = find_sources(schema.feature_set, job.data, given=job.sources)
    return Plan(bundle_id(job.bundle), job.settings, sources)


def share_of_environment() -> tuple[int, int] | None:
    """The share of a process that torchrun started."""
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    return None if rank is None or world_size is None else (int(rank), int(world_size))
