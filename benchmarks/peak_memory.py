"""The most memory that a process and its children held at one time, on Linux."""

import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_EVERY_S = 0.2
_KIB = 1024


class PeakMemory:
    """Looks at a process again and again, in a thread, while the context is open.

    Memory that processes share counts once (their proportional shares add up to it).

    Args:
        pid: Of the process.

    Attributes:
        num_bytes: The most so far.
    """

    def __init__(self, pid: int) -> None:
        self.num_bytes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self.num_bytes = max(self.num_bytes, sum(map(_bytes_of, _family(self._pid))))


def _family(pid: int) -> list[int]:
    """The process, its children, theirs, and so on."""
    found = [pid]
    for process in found:
        for file in Path(f"/proc/{process}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # it has ended
                found += map(int, file.read_text().split())
    return found


def _bytes_of(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * _KIB for line in lines if line.startswith("Pss:"))
