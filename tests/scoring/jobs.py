"""Jobs of each kind of bundle, and what they write."""

from dataclasses import replace

import pytest

from recsys.scoring.job import Job
from recsys.scoring.plan import Settings

KINDS = ("plain", "histories", "sequence")


def job_of(bundles, kind, log, out, **changes):
    of_kind = {} if kind == "sequence" else {"key_columns": ("user_id", "click")}
    settings = Settings(rows_per_part=90, users_per_part=7, **of_kind)
    sources = {"events": str(log / "log")}
    return replace(Job(bundles.of(kind), str(log), out, sources, settings), **changes)


def content(out):
    """All files of an output by name."""
    return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}


each_kind = pytest.mark.parametrize("whole_run", KINDS, indirect=True, scope="session")
of_events = pytest.mark.parametrize("whole_run", ["plain"], indirect=True, scope="session")
with_histories = pytest.mark.parametrize("whole_run", ["histories"], indirect=True, scope="session")
