"""Ranking without what search does not keep: its rows are never looked up.

First what attention reads of the histories is looked up, part by part, and searched. Then the batch
is cut to the events that were kept, and embedded as if its histories were that short.

Source: Pi et al., SIM (2020), https://arxiv.org/abs/2006.05639; Feng et al., DARE (2025),
https://arxiv.org/abs/2410.02604, section 4.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.distributed as dist

from recsys.nn.cutting import KeptEvents, num_events, to_examples, to_kept_events
from recsys.nn.events import Events
from recsys.nn.history_columns import HistoryColumns
from recsys.tables.embedder import Embedder
from recsys.types import Batch, Embedded

PART_EVENTS = 1 << 16
"""Events in a part of the first stage, where every history is as long as the longest: 16 MiB at
width 64, which the allocator keeps from part to part. An example is never split."""


_EXAMPLES_PER_HISTORY = 32
"""A part may have so many times the examples: a score is smaller than a vector."""

Search = Callable[[Embedded], Events]
"""Finds the events that are kept, from what attention reads."""


def embed_kept(
    embedder: Embedder,
    batch: Batch,
    *,
    columns: HistoryColumns,
    search: Search,
    part_events: int = PART_EVENTS,
) -> Embedded:
    """A batch embedded with the events that search keeps of its histories, and their ages.

    Args:
        embedder: Tables.
        batch: Whole.
        columns: What the ranker reads.
        search: Finds the events.
        part_events: See `search_histories`.
    """
    found = search_histories(
        embedder, batch, columns=columns, search=search, part_events=part_events
    )
    cut = to_kept_events(batch, found, columns=columns.columns)
    return replace(embedder(cut), ages={columns.sequence: found.age_L})


@torch.no_grad()
def search_histories(
    embedder: Embedder,
    batch: Batch,
    *,
    columns: HistoryColumns,
    search: Search,
    part_events: int = PART_EVENTS,
) -> KeptEvents:
    """The events that search keeps of a batch's histories; only what attention reads is looked up.

    Args:
        embedder: Tables. Where they are sharded over processes there is but one part, since every
            process must look up as often as the others.
        batch: Whole.
        columns: What the ranker reads.
        search: Finds the events.
        part_events: Most events of a part, where every history is as long as the longest.
    """
    embedder.check(batch)  # before it is cut up
    keys = [*columns.targets("attention"), *columns.events("attention")]
    if not _is_whole(embedder):
        return KeptEvents.of(search(embedder(batch, keys=keys)))
    lengths_B = num_events(batch, columns.columns[0])
    histories_B = batch.histories_B
    if histories_B is None:
        histories_B = torch.arange(len(batch), device=lengths_B.device)
    order_B = histories_B.argsort(stable=True)
    in_order = histories_B[order_B].tolist()
    starts = (lengths_B.cumsum(0) - lengths_B).tolist()
    kept, first_events = [], []
    for examples in _parts(in_order, longest=int(lengths_B.max()), part_events=part_events):
        index_P = order_B[examples.start : examples.stop]
        part = batch if len(examples) == len(batch) else to_examples(batch, index_P)
        kept.append(KeptEvents.of(search(embedder(part, keys=keys))))
        first_events.append(0 if part is batch else starts[in_order[examples.start]])
    found = KeptEvents.joined(kept, first_events=first_events)
    return found if len(kept) == 1 else found.take(order_B.argsort())


def _parts(histories: list[int], *, longest: int, part_events: int) -> Iterator[range]:
    """Ranges of examples.

    Args:
        histories: Which history each example has; those that share one are neighbours.
        longest: Most events of a history.
        part_events: Most events of a part.
    """
    most_histories = max(1, part_events // max(1, longest))
    most_examples = most_histories * _EXAMPLES_PER_HISTORY
    first, num_histories = 0, 0
    for place, history in enumerate(histories):
        is_new = place == first or history != histories[place - 1]
        is_full = num_histories == most_histories and is_new
        if place > first and (is_full or place - first == most_examples):
            yield range(first, place)
            first, num_histories, is_new = place, 0, True
        num_histories += is_new
    if histories:
        yield range(first, len(histories))


def _is_whole(embedder: Embedder) -> bool:
    """Whether this process can look up by itself."""
    is_distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return not (is_distributed and embedder.sharded_tables())
