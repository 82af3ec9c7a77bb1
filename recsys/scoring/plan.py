"""How the input is cut into parts; the same input and settings always give the same plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from recsys.scoring.files import InputFile

FORMAT = 3
_OF_FILES = {
    "path": "path",
    "num_bytes": "number of bytes",
    "groups": "number of rows",
    "modified_ns": "time of change",
    "partition": "partition",
}


@dataclass(frozen=True)
class Settings:
    """What the bytes of the output depend on, beside bundle and input.

    Attributes:
        key_columns: Raw columns to repeat beside the scores (ranking bundles).
        places: Items per user (sequence bundles).
        rows_per_part: Events that are read together, and scored by ranking bundles.
        users_per_part: Users that are scored together by sequence bundles.
        precision: Of the dense layers.
    """

    key_columns: tuple[str, ...] = ()
    places: int = 10
    rows_per_part: int = 1 << 18
    users_per_part: int = 1 << 13
    precision: Literal["float32", "bf16"] = "float32"


@dataclass(frozen=True)
class Piece:
    """Rows of a file that follow each other.

    Attributes:
        file: Its place among the files of the log.
        start: First row in the file.
        num_rows: Number of them.
        first_row: Place of the first row in the log.
    """

    file: int
    start: int
    num_rows: int
    first_row: int


@dataclass(frozen=True)
class Plan:
    """What is scored, with what, and in which parts.

    Attributes:
        bundle: Identity of the bundle.
        settings: What else decides the output.
        sources: Files of each source.
    """

    bundle: str
    settings: Settings
    sources: Mapping[str, tuple[InputFile, ...]]

    @property
    def log(self) -> tuple[InputFile, ...]:
        """The files of the events."""
        return self.sources["events"]

    @cached_property
    def parts(self) -> list[tuple[Piece, ...]]:
        """Pieces of each part of the event log; they have every row once, in order."""
        groups = [file.groups for file in self.log]
        return list(cut(groups, rows_per_part=self.settings.rows_per_part))

    @cached_property
    def num_rows(self) -> int:
        """Rows of the event log."""
        return sum(file.num_rows for file in self.log)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that other input, bundle or settings would change."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """For people and for the next run: which parts there are, and of what."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "bundle": self.bundle,
            "settings": asdict(self.settings),
            "sources": {n: [asdict(file) for file in files] for n, files in self.sources.items()},
            "parts": [
                [{"file": p.file, "start": p.start, "num_rows": p.num_rows} for p in pieces]
                for pieces in self.parts
            ],
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def cut(groups: Sequence[Sequence[int]], *, rows_per_part: int) -> Iterator[tuple[Piece, ...]]:
    """Cut files into parts of at most so many rows, between row groups where these are smaller.

    Parts of the last eighth have a quarter of these rows, so that workers end together.

    Args:
        groups: Rows of each row group, by file.
        rows_per_part: The most that a part has.
    """
    pieces: list[Piece] = []
    num_rows = sum(map(sum, groups))
    last_eighth, quarter = num_rows - num_rows // 8, -(-rows_per_part // 4)
    room, first_row = rows_per_part, 0
    for file, of_file in enumerate(groups):
        start = 0
        for length in of_file:
            stop, fits = start + length, length <= room
            while start < stop:
                if pieces and not (fits and room):
                    yield tuple(pieces)
                    pieces = []
                if not pieces:
                    room, fits = rows_per_part if first_row < last_eighth else quarter, True
                taken = min(room, stop - start)
                _append(pieces, Piece(file, start, taken, first_row))
                start, room, first_row = start + taken, room - taken, first_row + taken
    if pieces:
        yield tuple(pieces)


def _append(pieces: list[Piece], piece: Piece) -> None:
    """Add a piece, or lengthen the last one by it."""
    last = pieces[-1] if pieces else None
    if last and last.file == piece.file and last.start + last.num_rows == piece.start:
        pieces[-1] = Piece(last.file, last.start, last.num_rows + piece.num_rows, last.first_row)
    else:
        pieces.append(piece)


def differences(written: Mapping[str, Any], plan: Plan) -> list[str]:
    """How a plan that was written differs from one, in words; none where they are the same."""
    now = json.loads(plan.to_json())
    if written.get("format") != FORMAT:
        return [f"of another version, got format {FORMAT}; begun with {written.get('format')}"]
    found = []
    if written.get("bundle") != now["bundle"]:
        found.append(f"of another bundle, got {now['bundle']}; begun with {written.get('bundle')}")
    for name, value in now["settings"].items():
        before = dict(written.get("settings", {})).get(name)
        if before != value:
            found.append(f"of another setting {name}, got {value}; begun with {before}")
    for name, files in now["sources"].items():
        found += _changed_files(name, dict(written.get("sources", {})).get(name, []), files)
    if not found and written != now:
        found.append("of another plan; it is damaged, or of another version")
    return found


def _changed_files(
    source: str, before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> list[str]:
    if len(before) != len(now):
        return [f"of other input, got {len(now)} files of {source}; begun with {len(before)}"]
    for old, new in zip(before, now, strict=True):
        for key, what in _OF_FILES.items():
            if old.get(key) != new[key]:
                return [
                    f"of other input: {new['path']} has another {what}, got {new[key]}; begun "
                    f"with {old.get(key)}"
                ]
    return []
