"""What stands in for a profiler where nobody asked for one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from lightning.pytorch.profilers import PassThroughProfiler
from typing_extensions import override

_NOTHING: AbstractContextManager[None] = nullcontext()


class Unprofiled(PassThroughProfiler):
    """Measures nothing, at once: Lightning makes seventy contexts a step to measure in."""

    @override
    def profile(self, action_name: str) -> AbstractContextManager[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The same context, which does nothing, for every part of training."""
        return _NOTHING
