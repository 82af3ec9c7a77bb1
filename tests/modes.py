"""Who may read a file."""

import os


def as_any_new_file(file):
    """Whether it has the mode that this account's files have."""
    mask = os.umask(0o077)
    os.umask(mask)
    return file.stat().st_mode & 0o777 == 0o666 & ~mask
