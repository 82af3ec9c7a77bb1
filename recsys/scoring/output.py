"""The output folder: what is planned, which parts are finished, and whether all are.

<out>/plan.json             bundle, settings, input files and parts
      part-00000.parquet    scores; its metadata say of which bundle and plan, and what was counted
      rejects/part-00000.parquet   events of that part that could not be scored, where there are any
      summary.json          counts of all parts, and warnings
      complete.json         the parts and rejects; written last: without it the folder is unfinished
      .work/  .lock         what is not whole yet, until the folder is complete
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from features.errors import OutputError, RunConfigError
from recsys.scoring.counts import Counts
from recsys.scoring.plan import Plan, differences
from recsys.scoring.whole import make_folder, write_whole

PLAN, SUMMARY, COMPLETE, REJECTS = "plan.json", "summary.json", "complete.json", "rejects"
_WORK, _LOCK = ".work", ".lock"


@dataclass(frozen=True)
class ScoredPart:
    """A part, ready to be written.

    Attributes:
        frame: Keys and scores.
        rejects: Events that could not be scored.
        counts: Of all its rows.
    """

    frame: pl.DataFrame
    rejects: pl.DataFrame
    counts: Counts


@dataclass(frozen=True)
class OutputFolder:
    """Where the parts of a plan go.

    Attributes:
        path: The folder.
        plan: What is scored into it.
    """

    path: Path
    plan: Plan

    @property
    def work(self) -> Path:
        """Folder for what is not whole yet."""
        return self.path / _WORK

    @property
    def is_complete(self) -> bool:
        """Whether every part is there."""
        return (self.path / COMPLETE).is_file()

    def read_summary(self) -> dict[str, Any]:
        """Of a complete folder."""
        return json.loads((self.path / SUMMARY).read_text())

    def reopen(self) -> None:
        """Take a complete folder for an unfinished one where parts are gone since.

        Raises:
            OutputError: another file is gone, or one is not as it was written.
        """
        written = json.loads((self.path / COMPLETE).read_text())["files"]
        files = {name: self.path / name for name in written}
        found = {name: f.stat().st_size for name, f in files.items() if f.is_file()}
        for name, size in found.items():
            if size != written[name]:
                raise OutputError(
                    f"{files[name]}: is not as it was written, got {size} bytes; allowed "
                    f"{written[name]}; delete it, and run again"
                )
        gone = [file for name, file in files.items() if name not in found]
        for file in gone:
            if file.parent.name == REJECTS:  # its part is there, and would not be scored again
                raise OutputError(
                    f"{file}: is gone, got a complete folder without it; remove {self.path}, and "
                    f"score again"
                )
        if gone:
            (self.path / COMPLETE).unlink(missing_ok=True)

    @cached_property
    def lock(self) -> FileLock:
        """Held by who writes the plan, builds histories or completes; the others wait."""
        return FileLock(self.path / _LOCK)

    def begin(self) -> None:
        """Make the folder, or check that it is of this very plan.

        Raises:
            OutputError: it cannot be made.
            RunConfigError: it holds something else.
        """
        refuse_other(self.path, self.plan)
        make_folder(self.path)
        with self.lock:
            if (self.path / PLAN).is_file():
                refuse_other(self.path, self.plan)  # another process may have come first
            else:
                write_whole(self.path / PLAN, self.plan.to_json().encode(), work=self.work)

    def forget(self) -> None:
        """Take a folder away in which no part was finished."""
        if not list(self.path.glob("*.parquet")):
            shutil.rmtree(self.path, ignore_errors=True)

    def file(self, part: int) -> Path:
        """Where a part lies."""
        return self.path / f"part-{part:05d}.parquet"

    def missing(self, parts: range) -> list[int]:
        """Parts that are not finished."""
        names = {f.name for f in self.path.glob("part-*.parquet")}
        return [part for part in parts if self.file(part).name not in names]

    def write(self, part: int, scored: ScoredPart) -> None:
        """Write a part, and before it what was rejected of it.

        Raises:
            OutputError: it cannot be written.
        """
        self.write_rejects(part, scored.rejects)
        metadata = {
            "recsys.bundle": self.plan.bundle,
            "recsys.plan": self.plan.digest,
            "recsys.part": str(part),
            "recsys.counts": json.dumps(scored.counts.to_content()),
        }
        content = _parquet(scored.frame, metadata)
        write_whole(self.file(part), content, work=self.work)

    def write_rejects(self, part: int, rejects: pl.DataFrame) -> None:
        """Write the events of a part that could not be scored, if there are any."""
        if len(rejects):
            content = _parquet(rejects, {"recsys.bundle": self.plan.bundle})
            write_whole(self.path / REJECTS / self.file(part).name, content, work=self.work)

    def read_counts(self, part: int) -> Counts:
        """What was counted of a finished part.

        Raises:
            OutputError: the file is damaged, or of another run.
        """
        file = self.file(part)
        try:
            footer = pq.read_metadata(file)
            metadata = {k.decode(): v.decode() for k, v in (footer.metadata or {}).items()}
            counts = Counts.from_content(json.loads(metadata["recsys.counts"]))
            is_ours = metadata["recsys.plan"] == self.plan.digest
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            raise OutputError(
                f"{file}: is damaged, got {error}; delete it, and run again"
            ) from None
        if not is_ours or metadata["recsys.part"] != str(part) or footer.num_rows != counts.written:
            raise OutputError(f"{file}: is of another run; delete it, and run again")
        return counts

    def complete(self, num_parts: int, *, summary: Mapping[str, Any]) -> None:
        """Write the summary and, last, the list of all files; any number of processes may."""
        with self.lock:
            if not self.is_complete:
                self._complete(num_parts, summary=summary)
            shutil.rmtree(self.work, ignore_errors=True)

    def _complete(self, num_parts: int, *, summary: Mapping[str, Any]) -> None:
        write_whole(self.path / SUMMARY, _json(summary), work=self.work)
        files = [self.file(part) for part in range(num_parts)]
        files += sorted((self.path / REJECTS).glob("*.parquet"))
        content = {
            "bundle": self.plan.bundle,
            "plan": self.plan.digest,
            "rows": summary["rows"],
            "files": {f.relative_to(self.path).as_posix(): f.stat().st_size for f in files},
        }
        write_whole(self.path / COMPLETE, _json(content), work=self.work)


def refuse_other(path: Path, plan: Plan) -> None:
    """Refuse a folder that holds anything but parts of a plan.

    Raises:
        RunConfigError: says how it differs.
    """
    if not path.exists() or (path.is_dir() and {f.name for f in path.iterdir()} <= {_WORK, _LOCK}):
        return
    if not (path / PLAN).is_file():
        raise RunConfigError(f"--out: exists already, got {path}; give another name, or remove it")
    try:
        written = json.loads((path / PLAN).read_text())
        mistakes = differences(written, plan)
    except (ValueError, TypeError, AttributeError) as error:
        mistakes = [f"whose {PLAN} is damaged ({error})"]
    if mistakes:
        raise RunConfigError(
            f"--out: {path} holds scores {mistake}; give another name, or remove it"
            for mistake in mistakes
        )


def _parquet(frame: pl.DataFrame, metadata: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    frame.write_parquet(stream, metadata=metadata)
    return stream.getvalue()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
