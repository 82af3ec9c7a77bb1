"""What readers read in a batch: ids packed end to end, and how many each example has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.columns import count_column
from recsys.tables.logical import Reader
from recsys.tables.pooling import pool
from recsys.types import Jagged


@dataclass(frozen=True)
class Ids:
    """What one reader reads in a batch.

    Attributes:
        values_L: Ids of all examples, packed.
        lengths_B: Ids of each example.
        events: Ids of each event, packed, and events of each example; None where an event has one
            id, or there are no events.
    """

    values_L: Tensor
    lengths_B: Tensor
    events: Ids | None = None


def unpack(
    parts: Sequence[KeyedJaggedTensor | None], readers: Mapping[str, Reader]
) -> Iterator[tuple[str, Ids]]:
    """What each reader reads, where the batch has it.

    Args:
        parts: Of a batch.
        readers: By key.
    """
    for keyed in parts:
        if keyed is None:
            continue
        values = keyed.values().split(keyed.length_per_key())
        lengths = keyed.lengths().view(len(keyed.keys()), -1).unbind()
        found = dict(zip(keyed.keys(), map(Ids, values, lengths), strict=True))
        for key, reader in readers.items():
            if reader.column not in found:
                continue
            ids, has_lists = found[reader.column], reader.event_pooling != "none"
            counted = replace(ids, events=found[count_column(reader.column)]) if has_lists else ids
            yield key, counted


def of_events(vectors_LD: Tensor, ids: Ids, reader: Reader) -> Jagged:
    """A vector per event.

    Args:
        vectors_LD: A vector per id.
        ids: What the reader read.
        reader: Says how the ids of an event become one.
    """
    if reader.event_pooling == "none":
        return Jagged(vectors_LD, ids.lengths_B)
    events = ids.events
    assert events is not None, "lists come with their counts"
    return Jagged(pool(vectors_LD, events.values_L, how=reader.event_pooling), events.lengths_B)
