"""Rows of a sharded collection on their way to the ranks that hold them."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn
from torchrec.distributed.types import Awaitable, ShardedModule
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class SentRows:
    """A look-up of a sharded collection, begun; nothing of its tables is read before `look_up`.

    Every rank takes the same steps in the same order, since each is a communication of all. In a
    row they are what calling the collection does.

    Args:
        collection: Sharded.
        keyed: Rows by lookup.
    """

    def __init__(
        self, collection: ShardedModule[Any, Any, Any, Any], keyed: KeyedJaggedTensor
    ) -> None:
        self._collection = collection
        self._context = collection.create_context()
        self._counts: Awaitable[Awaitable[Any]] | None = collection.input_dist(self._context, keyed)
        self._rows: Awaitable[Any] | None = None
        self._arrived: Any = None

    @classmethod
    def begin(cls, collection: nn.Module, keyed: KeyedJaggedTensor) -> Self | None:
        """Tell the other ranks how many rows will come; None: the collection is not sharded."""
        return cls(collection, keyed) if isinstance(collection, ShardedModule) else None

    def send(self) -> None:
        """Send the rows, once every rank has said how many; a second call does nothing."""
        if self._counts is not None:
            self._rows, self._counts = self._counts.wait(), None

    def arrive(self) -> None:
        """Take what the other ranks sent; a second call does nothing."""
        self.send()
        if self._rows is not None:
            self._arrived, self._rows = self._rows.wait(), None

    def look_up(self) -> Any:
        """What the collection gives for the rows, as its tables are now."""
        self.arrive()
        return self._collection.compute_and_output_dist(self._context, self._arrived)

    def record_stream(self, stream: torch.cuda.streams.Stream) -> None:
        """Keep the memory of what has arrived until the stream is done with it."""
        self._arrived.record_stream(stream)
        self._context.record_stream(stream)
