"""Epoch after epoch of training batches, with a place that a checkpoint can keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Self

from recsys.data.loader import BatchLoader
from recsys.types import Batch


class EpochLoader:
    """What Lightning's trainer iterates over.

    Nothing is read before the first batch is asked for, since Lightning makes an iterator before
    it says which epoch it is for.

    Args:
        loader: Makes the batches.

    Attributes:
        epoch: The epoch in progress.
        batch: Batches of it that were given.
    """

    def __init__(self, loader: BatchLoader) -> None:
        self._loader = loader
        self._through: Callable[[Iterable[Batch]], Iterator[Batch]] = iter
        self.epoch = 0
        self.batch = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch."""
        self._loader.set_epoch(self.epoch, start_batch=self.batch)
        for batch in self._through(self._loader):
            self.batch += 1
            yield batch

    def pin(self) -> None:
        """From now on put batches in page-locked memory: a GPU copies them beside its work."""
        self._loader.pin()

    def pass_through(self, through: Callable[[Iterable[Batch]], Iterator[Batch]]) -> None:
        """From now on pass batches through something that may read ahead of what it gives.

        Args:
            through: Gives as many batches as it gets.
        """
        self._through = through

    @property
    def sampler(self) -> Self:
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch; the one in progress goes on where it is."""
        if epoch != self.epoch:
            self.epoch, self.batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """The place, the same on every rank and for every number of ranks."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place."""
        self.epoch, self.batch = state["epoch"], state["batch"]
