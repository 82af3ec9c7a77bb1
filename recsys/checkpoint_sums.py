"""Whether the files of a checkpoint are those that were written: a hash of each, in `sums.json`.

Every rank hashes the tensors that it wrote; the first one gathers them and adds the other files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import xxhash

from features.errors import CheckpointMismatchError
from features.permissions import refused_by_name

SUMS = "sums.json"
_PART = "*.sums"
_CHUNK_BYTES = 1 << 22
MEND = "take another checkpoint, such as best.ckpt or last.ckpt beside it"


def write_part(directory: Path, *, rank: int) -> None:
    """Hash the tensors that a rank has written.

    Args:
        directory: The checkpoint.
        rank: That calls.
    """
    # So torch.distributed.checkpoint names the files of a rank.
    found = _hashes(directory, directory.glob(f"__{rank}_*"))
    (directory / f"{rank}{_PART[1:]}").write_text(json.dumps(found))


def write_sums(directory: Path) -> None:
    """Gather what the ranks have hashed, and hash the files that are not theirs."""
    parts = sorted(directory.glob(_PART))
    found: dict[str, str] = {}
    for part in parts:
        found |= json.loads(part.read_text())
        part.unlink()
    others = [f for f in directory.rglob("*") if f.is_file() and f.name not in found]
    found |= _hashes(directory, others)
    (directory / SUMS).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


@refused_by_name(CheckpointMismatchError)
def check_sums(directory: Path) -> None:
    """Make sure that a checkpoint is whole; in one process each is read but once.

    Checkpoints of before there were sums have none, and pass.

    Raises:
        CheckpointMismatchError: with all files that are missing or damaged.
    """
    file = directory / SUMS
    if not file.is_file():
        return
    try:
        changed_ns = max(f.stat().st_mtime_ns for f in directory.rglob("*"))
        mistakes = _mistakes(directory.resolve(), changed_ns)
    except PermissionError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointMismatchError(f"{file}: is damaged, got {error}; {MEND}") from None
    if mistakes:
        raise CheckpointMismatchError(f"{directory / name}: {what}" for name, what in mistakes)


@lru_cache(maxsize=8)
def _mistakes(directory: Path, changed_ns: int) -> list[tuple[str, str]]:
    """Damaged files and what is wrong with them; read again where a file has changed since."""
    wanted = dict(json.loads((directory / SUMS).read_text()))
    there = [directory / name for name in wanted if (directory / name).is_file()]
    found = _hashes(directory, there)
    return [
        (name, f"is damaged, got hash {found[name]}; allowed {hash_}; {MEND}")
        if name in found
        else (name, f"is missing; {MEND}")
        for name, hash_ in wanted.items()
        if found.get(name) != hash_
    ]


def _hashes(directory: Path, files: Iterable[Path]) -> dict[str, str]:
    return {f.relative_to(directory).as_posix(): _hash(f) for f in sorted(files)}


def _hash(file: Path) -> str:
    digest = xxhash.xxh3_64()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
