"""Look-ups begun while the step before them still changes the tables.

What ids alone decide can be done ahead: the rows they reach, and sending these to the ranks that
hold them. TorchRec's TrainPipelineSparseDist does the same, but finds the collections by tracing
the model, which an `Embedder` does not allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from recsys.tables.reads import Ids
from recsys.tables.sent_rows import SentRows
from recsys.tables.stores import Rows


@dataclass(frozen=True)
class BegunLookup:
    """A look-up of all readers, as far as it has come.

    Attributes:
        present: What is read, by reader; readers that the batch has nothing for are left out.
        ids: The same for all readers that the schemes know.
        rows: By lookup, of the schemes that have given them.
        sent: By place of a collection, of those whose rows are on their way.
    """

    present: Mapping[str, Ids]
    ids: Mapping[str, Ids]
    rows: Mapping[str, Rows] = field(default_factory=dict)
    sent: Mapping[str, SentRows] = field(default_factory=dict)

    def send(self) -> None:
        """Send rows to the ranks that hold them, once every rank has said how many."""
        for rows in self.sent.values():
            rows.send()

    def arrive(self) -> None:
        """Take what the other ranks sent."""
        for rows in self.sent.values():
            rows.arrive()

    def record_stream(self, stream: torch.cuda.streams.Stream) -> None:
        """Keep the memory until the stream is done with it."""
        record_stream((self.present, self.ids, self.rows, self.sent), stream)


def record_stream(value: Any, stream: torch.cuda.streams.Stream) -> None:
    """Keep the memory of all tensors inside a value until the stream is done with it.

    Args:
        value: Tensors, and what says it for itself, in tuples, mappings and dataclasses.
        stream: Reads what another stream has made.
    """
    if isinstance(value, Tensor) or hasattr(value, "record_stream"):
        value.record_stream(stream)
    elif isinstance(value, Mapping):
        record_stream((*value.values(),), stream)
    elif isinstance(value, tuple):
        for part in value:
            record_stream(part, stream)
    elif is_dataclass(value):
        record_stream((*(getattr(value, item.name) for item in fields(value)),), stream)
