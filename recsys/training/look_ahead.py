"""Begins each training step while the step before it runs.

The next batch is copied to the device, and whatever follows from it alone is computed and sent to
the other ranks: for a ranker, which rows of sharded tables its ids reach. On a GPU this runs on a
stream of its own, beside the step that is under way, and waits there for what has to be known on
the machine, such as the sizes of what is sent; no step waits for it.

What a step gives stays the same to the last bit: nothing is read early that training changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from recsys.training.task import BegunStep, Task
from recsys.types import Batch


@dataclass(frozen=True)
class _Coming:
    """A step that was begun, and the batch it is of, on the device."""

    batch: Batch
    begun: BegunStep


class LookAhead:
    """Passes the batches of an epoch on, one later than it takes them.

    A mistake in a batch is raised before the step in front of it is taken: other ranks wait for
    this one already.

    Args:
        task: Begins steps, and takes them up in `training_step`.
        device: That it trains on.
        to_device: Looks at a batch and copies it there.
    """

    def __init__(
        self, task: Task, *, device: torch.device, to_device: Callable[[Batch], Batch]
    ) -> None:
        self._task = task
        self._to_device = to_device
        # Its short work goes before the long one of the step, as in TorchRec.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._coming: _Coming | None = None

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, each with its step begun."""
        if self._stream is not None:  # what steps read besides: buffers, filled on the other one
            self._stream.wait_stream(torch.cuda.current_stream())
        try:
            left = iter(batches)
            self._coming = self._begun(left, step=self._task.global_step)
            while self._coming is not None:
                coming = self._coming
                self._finish(coming)
                self._coming = self._begun(left, step=self._task.global_step + 1)
                self._task.begun = coming.batch, coming.begun
                yield coming.batch
        finally:
            self._coming = self._task.begun = None

    def send(self) -> None:
        """Go on with the coming step, once the device has the forward pass of this one to do."""
        if self._coming is not None:
            with self._on_stream():
                self._coming.begun.send()

    def _begun(self, batches: Iterator[Batch], *, step: int) -> _Coming | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with self._on_stream():
            on_device = self._to_device(batch)
            return _Coming(on_device, self._task.begin_step(on_device, step=step))

    def _finish(self, coming: _Coming) -> None:
        """Take what other ranks sent, and hand all of it to the stream that trains."""
        with self._on_stream():
            coming.begun.arrive()
        if self._stream is not None:
            training = torch.cuda.current_stream()
            # All that the stream has to do by now is of this step: the next is not begun.
            training.wait_stream(self._stream)
            coming.batch.record_stream(training)
            coming.begun.record_stream(training)

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
