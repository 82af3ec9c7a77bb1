"""Files of one account that another one reads: trained by a person, scored by a service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from features.errors import RecsysError


def give_usual_mode(file: Path) -> None:
    """Let those read a file who may read any other new one; safetensors lets its owner alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    with suppress(OSError):  # mounted buckets have modes of their own
        file.chmod(0o666 & ~mask)


@contextmanager
def refused_by_name(error_type: type[RecsysError]) -> Iterator[None]:
    """Name a file that this account may not read, with what it takes.

    Args:
        error_type: What to raise.
    """
    try:
        yield
    except PermissionError as error:
        raise error_type(
            f"{error.filename}: cannot be read, got {error.strerror}; have its owner allow it, as "
            f"by `chmod -R a+rX {Path(error.filename).parent}`"
        ) from None
