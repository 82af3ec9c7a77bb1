"""Fingerprint of the data files' bytes; files that did not change are not read twice."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import xxhash
from filelock import FileLock

_CHUNK_BYTES = 16 << 20

_log = logging.getLogger(__name__)


def fingerprint_files(sources: Mapping[str, Sequence[Path]], *, cache: Path) -> str:
    """A 128-bit xxh3 of all sources: names, order and bytes of their files.

    Args:
        sources: Files by source.
        cache: JSON file that remembers the hash of each (path, size, times of last change).
    """
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.with_suffix(".lock")):  # the other ranks wait instead of hashing too
        known = _read_cache(cache)
        entries = {}
        whole = xxhash.xxh3_128()
        for source, files in sorted(sources.items()):
            for file in files:
                stat = file.stat()
                # A copy may set the time of modification, but not that of the inode's change.
                times = f"{stat.st_mtime_ns}|{stat.st_ctime_ns}"
                entry = f"{file.resolve()}|{stat.st_size}|{times}"
                entries[entry] = known.get(entry) or _hash_file(file)
                whole.update(f"{source}|{file.name}|{entries[entry]}\n".encode())
        if not entries.keys() <= known.keys():
            partial = cache.with_suffix(".partial")
            partial.write_text(json.dumps({**known, **entries}, indent=1))
            os.replace(partial, cache)
    return whole.hexdigest()


def _read_cache(cache: Path) -> dict[str, str]:
    try:
        return json.loads(cache.read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError:
        _log.warning("%s: is no JSON; all data files are hashed again", cache)
        return {}


def _hash_file(file: Path) -> str:
    started = time.monotonic()
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    _log.info("hashed %s in %.1f s", file, time.monotonic() - started)
    return digest.hexdigest()
