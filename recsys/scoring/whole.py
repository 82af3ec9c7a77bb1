"""Files that appear under their names only when they are whole, and stay when the power goes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from features.errors import OutputError


def write_whole(path: Path, content: bytes, *, work: Path) -> None:
    """Write a file beside its place, flush it to the disk, and rename it.

    Args:
        path: Its place.
        content: All of it.
        work: Folder on the same disk for what is not whole yet.

    Raises:
        OutputError: it cannot be written; nothing lies under its name then.
    """
    # No process number: the first processes of two containers have the same one.
    partial = work / f"{path.name}.{secrets.token_hex(8)}"

    def write() -> None:
        work.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
        flush_folder(path.parent)

    _written(write, path, partial=partial)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it.

    Raises:
        OutputError: it cannot be made.
    """
    _written(lambda: path.mkdir(parents=True, exist_ok=True), path, partial=None)


def flush_folder(path: Path) -> None:
    """Flush the names in a folder to the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _written(write: Callable[[], None], path: Path, *, partial: Path | None) -> None:
    try:
        write()
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written, got {error.strerror or error}; make room or another --out "
            f"folder, and run again: parts that are there are kept"
        ) from None
