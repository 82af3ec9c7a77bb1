"""Sizes in bytes as people write them."""

from __future__ import annotations

import re

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:_\d+)*(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str | int) -> int:
    """Bytes of '12.5MB' (decimal), '2 GiB' (binary) or a number of bytes, rounded down.

    Raises:
        ValueError: the text is no size, or less than one byte.
    """
    match = _SIZE.fullmatch(str(text))
    unit = match and UNITS.get(match[2].upper())
    if not match or unit is None or int(float(match[1].replace("_", "")) * unit) < 1:
        raise ValueError(f"no size in bytes, got {text!r}; write it like '12.5MB' or '2GiB'")
    number = match[1].replace("_", "")
    return int(number) * unit if number.isdigit() else int(float(number) * unit)


def format_bytes(num_bytes: int) -> str:
    """A size with three digits and a decimal unit."""
    size, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):  # noqa: B007 - the last one is used below
        if size < 1000:
            break
        size /= 1000
    return f"{num_bytes} B" if unit == "B" else f"{size:.3g} {unit}"


def binary_size(num_bytes: int) -> str:
    """A size with three digits and a binary unit, as memory is sold."""
    size, unit = float(num_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):  # noqa: B007 - the last one is used below
        if size < 1000:
            break
        size /= 1024
    return f"{num_bytes} B" if unit == "B" else f"{size:.3g} {unit}"
