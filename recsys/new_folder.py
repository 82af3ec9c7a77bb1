"""A folder that a verb makes: it appears under its name only when it is complete."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import OutputError, RecsysError, RunConfigError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def check_out(out: Path) -> None:
    """Refuse to replace anything.

    Raises:
        OutputError: it has a name that no folder can have here.
        RunConfigError: something is there.
    """
    try:
        exists = out.exists()
    except OSError as error:
        raise _cannot_be_made(out, error) from None
    if exists:
        raise RunConfigError(f"--out: exists already, got {out}; give another name, or remove it")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Where to write what the folder is to have; nothing is left where that fails.

    Args:
        out: What `check_out` has seen.

    Raises:
        OutputError: it cannot be made, or there is no room for what is written.
    """
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise _cannot_be_made(out, error) from None
    try:
        yield partial
        partial.rename(out)
    except Exception as error:
        if not _is_of_writing(error):
            raise
        raise OutputError(
            f"{out}: cannot be written, got {str(error).splitlines()[0]}; make room, and run again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_of_writing(error: Exception) -> bool:
    """Whether an error, whose kind is up to the library that writes, says that there is no room."""
    if isinstance(error, RecsysError):
        return False
    if isinstance(error, OSError):  # NumPy's has no number
        return error.errno in (None, *_NO_ROOM)
    return any(os.strerror(number) in str(error) for number in _NO_ROOM)


def _cannot_be_made(out: Path, error: OSError) -> OutputError:
    return OutputError(
        f"--out: cannot be made, got {out} ({error.strerror or error}); give another folder, or "
        f"make room and let the one above it be written"
    )
