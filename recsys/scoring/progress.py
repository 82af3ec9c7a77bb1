"""How far a run is, on the error stream."""

from __future__ import annotations

import sys
import time

_SECONDS_BETWEEN = 10


class Progress:
    """Prints a line now and then; short runs print none.

    Args:
        total: Rows to come.
        num_parts: Parts to come.
        noun: What the rows are.
    """

    def __init__(self, total: int, num_parts: int, *, noun: str) -> None:
        self._total, self._num_parts, self._noun = total, num_parts, noun
        self._done, self._parts = 0, 0
        self._started = self._printed = time.monotonic()

    def add(self, num_rows: int) -> None:
        """Count a finished part."""
        self._done += num_rows
        self._parts += 1
        now = time.monotonic()
        if now - self._printed >= _SECONDS_BETWEEN:
            self._printed = now
            print(self.line(now - self._started), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What to print after some seconds."""
        rate = self._done / seconds
        left = round((self._total - self._done) / rate) if rate else 0
        minutes, rest = divmod(left, 60)
        return (
            f"part {self._parts:,} of {self._num_parts:,}: {self._done:,} of {self._total:,} "
            f"{self._noun}, {rate:,.0f} a second, {minutes} min {rest:02d} s left"
        )
