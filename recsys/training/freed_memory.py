"""What a step frees stays with the process, for the next step."""

from __future__ import annotations

import ctypes
import os

# <malloc.h> of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**31 - 1
_LARGEST_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Have the C library keep the memory of freed tensors; gives whether it does.

    By itself glibc asks the system anew for every tensor above 32 MB, and returns it right after:
    all its pages are cleared by the kernel at every step, which takes half the time of a sequence
    model on a CPU. Tensors from 1 GiB on, such as tables, are still given back.

    Nothing is changed where the environment says how memory is allocated (`MALLOC_*`), or the C
    library is another one.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # macOS, musl
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    )
