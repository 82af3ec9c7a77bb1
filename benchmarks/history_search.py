"""Time and memory of a search over long histories, by width of the vectors that attention reads.

    OMP_NUM_THREADS=1 python benchmarks/history_search.py [--widths 128 64 32 16]

DARE of one column: a million items, representation of width 128, random histories. Search
looks up what attention reads, scores, and keeps 20 events of each history; two stages then embed
these events and rank. One stage embeds the whole histories, as training does. Memory is what a
call needs beyond tables and batch. Ends with exit code 1 where search for one candidate at a fourth
of the largest width takes more than half of the time: with a hundred, what a width does not change
(choosing 20 of 10,000 scores) is most of it.
"""

import argparse
import ctypes
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch

from features.table_spec import FullTable
from models import DARE
from recsys.data.jagged import Ids, keyed_jagged
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.logical import LogicalTable, Reader
from recsys.two_stages import embed_kept, search_histories
from recsys.types import Batch, FieldLayout

_REPRESENTATION = 128
_PAIRS = {1: 12, 100: 100}  # pairs of a call, by candidates per user
_FORMS = ("search", "two stages", "one stage")
_LARGEST_RATIO = 0.5


def main() -> None:
    """Measure in turns, print the table, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 64, 32, 16])
    parser.add_argument("--length", type=int, default=10_000, help="events of a history")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    models = {
        width: _Model(width, num_items=options.items, length=options.length)
        for width in sorted(options.widths, reverse=True)
    }
    cases = [
        _Case(model, candidates, form)
        for candidates in _PAIRS
        for model in models.values()
        for form in _FORMS
    ]
    batches = {
        candidates: _batch(num_items=options.items, length=options.length, candidates=candidates)
        for candidates in _PAIRS
    }
    times_s: dict[_Case, list[float]] = {case: [] for case in cases}
    for number in range(options.rounds + 1):
        for case in cases:
            started_s = time.perf_counter()
            case.call(batches[case.candidates])
            if number > 0:  # the first touch of fresh memory is slow
                times_s[case].append(time.perf_counter() - started_s)
    memory_mib = {case: _peak_mib(lambda c=case: c.call(batches[c.candidates])) for case in cases}
    sys.exit(_report(times_s, memory_mib, widths=list(models)))


class _Model:
    """Tables and a ranker of one width of attention."""

    def __init__(self, width: int, *, num_items: int, length: int) -> None:
        self.width = width
        tables = [
            _table("attention", width, num_items=num_items, position=0),
            _table("representation", _REPRESENTATION, num_items=num_items, position=2),
        ]
        self.embedder = Embedder(tables, config=TablesConfig(dense_max_bytes=sys.maxsize))
        roles = {"@attention": width, "@representation": _REPRESENTATION}
        past = {f"past.item{role}": of_role for role, of_role in roles.items()}
        layout = FieldLayout(
            fields={f"item{role}": of_role for role, of_role in roles.items()},
            sequences=past,
            dense={},
            labels=("click",),
            max_lengths=dict.fromkeys(past, length),
        )
        self.ranker = DARE(layout, auxiliary=False).eval()


@dataclass(frozen=True)
class _Case:
    """What is timed."""

    model: _Model
    candidates: int
    form: str

    @torch.inference_mode()
    def call(self, batch: Batch) -> None:
        """Do it once."""
        embedder, ranker = self.model.embedder, self.model.ranker
        match self.form:
            case "search":
                search_histories(embedder, batch, columns=ranker.columns, search=ranker.kept)
            case "two stages":
                ranker(embed_kept(embedder, batch, columns=ranker.columns, search=ranker.kept))
            case _:
                ranker(embedder(batch))


def _table(role: str, width: int, *, num_items: int, position: int) -> LogicalTable:
    target, past = (
        Reader(
            key=f"{key}@{role}",
            position=position + offset,
            namespace="item",
            num_ids=num_items,
            probes=1,
            pooling="none" if key == "past.item" else "mean",
            is_multi_valued=key == "past.item",
            source=key,
        )
        for offset, key in enumerate(("item", "past.item"))
    )
    return LogicalTable(f"item_{role}", width, FullTable(dim=width), (target, past))


def _batch(*, num_items: int, length: int, candidates: int) -> Batch:
    rng = np.random.default_rng(0)
    pairs = _PAIRS[candidates]
    users = pairs // candidates
    targets = rng.integers(0, num_items, pairs)
    events = rng.integers(0, num_items, users * length)
    lengths = np.where(np.arange(pairs) < users, length, 0)
    none = torch.zeros(0, dtype=torch.int64)
    return Batch(
        ids=keyed_jagged([Ids("item", targets, None, num_items)], num_rows=pairs),
        sequences=keyed_jagged([Ids("past.item", events, lengths, num_items)], num_rows=pairs),
        dense_BN=torch.zeros(pairs, 0),
        labels_BT=torch.zeros(pairs, 0),
        weights_B=torch.ones(pairs),
        users_B=torch.arange(pairs),
        targets_B=none,
        seen_values=none,
        seen_lengths_B=none,
        histories_B=None if candidates == 1 else torch.arange(pairs) // candidates,
    )


def _peak_mib(call: Callable[[], None]) -> float:
    """Memory that a call adds, in a process of its own, whose peak nothing else has raised."""
    ctypes.CDLL(None).malloc_trim(0)  # glibc: else the child begins with what was freed
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call()
        sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024)

    process = context.Process(target=child)
    process.start()
    process.join()
    return receiver.recv()


def _report(
    times_s: dict[_Case, list[float]], memory_mib: dict[_Case, float], *, widths: list[int]
) -> int:
    """Print the table; 1 where a narrow search is not fast."""
    found = {(c.candidates, c.model.width, c.form): (times_s[c], memory_mib[c]) for c in times_s}
    print("| candidates | width | search s | ratio | two stages s, MiB | one stage s, MiB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    is_slow = False
    for candidates, pairs in _PAIRS.items():
        widest_s, _ = found[candidates, widths[0], "search"]
        for width in widths:
            cells = [found[candidates, width, form] for form in _FORMS]
            in_s = [f"{statistics.median(times) * 1000 / pairs:.3f}" for times, _ in cells]
            ratio = statistics.median(
                mine / its for mine, its in zip(cells[0][0], widest_s, strict=True)
            )
            is_slow |= candidates == 1 and width * 4 == widths[0] and ratio > _LARGEST_RATIO
            print(
                f"| {candidates} | {width} | {in_s[0]} | {ratio:.2f} "
                f"| {in_s[1]}, {cells[1][1]:.0f} | {in_s[2]}, {cells[2][1]:.0f} |"
            )
    return int(is_slow)


if __name__ == "__main__":
    main()
