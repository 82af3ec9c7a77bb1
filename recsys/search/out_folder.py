"""Where a verb writes its tables and pictures."""

from __future__ import annotations

from pathlib import Path

from features.errors import RunConfigError


def check_out(folder: Path) -> None:
    """Make sure that it can be made, before anything takes time.

    Raises:
        RunConfigError: something else has its name.
    """
    if folder.exists() and not folder.is_dir():
        raise RunConfigError(f"--out: is no folder, got {folder}; give another name")
