"""Why a process of several ends, told to the others, which only see that it is gone.

A mistake in the rows of one process must not end another with a message of gloo. Nothing is
exchanged as long as all goes well.
"""

from __future__ import annotations

import torch.distributed as dist

from features.errors import RecsysError

_KEY = "recsys/mistake"


def leave_word(mistake: RecsysError) -> None:
    """Say why this process ends, where there are others."""
    if not _are_several():
        return
    try:
        _store().set(_KEY, f"process {dist.get_rank()}: {mistake}")
    except RuntimeError:  # the process that kept the store has gone first
        return


def word_of_another() -> str | None:
    """Why another process has ended; None where that is not known."""
    if not _are_several():
        return None
    try:
        return _store().get(_KEY).decode() if _store().check([_KEY]) else None
    except RuntimeError:
        return None


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()
