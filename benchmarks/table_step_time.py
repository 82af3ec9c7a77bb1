"""Step time of one table against its number of rows: a sharded table's must not grow with it.

    OMP_NUM_THREADS=1 python benchmarks/table_step_time.py [--rows 100000 1000000 10000000]

A step is forward, backward and update with 4096 examples, one uniform id for each of 4 features
that read the table. Sharded tables are updated inside the backward pass by Adagrad, on one rank
over gloo; the replicated ones, for comparison, by torch's fused Adagrad, which visits every row.
Ends with exit code 1 where a sharded table takes more than 1.5 times the step of the smallest.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from features.table_spec import FullTable
from recsys.data.jagged import Ids, keyed_jagged
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.plan import shard
from recsys.types import Batch

_DIM, _NUM_FEATURES, _NUM_EXAMPLES = 16, 4, 4096
_LARGEST_REPLICATED = 1_000_000  # rows; beyond, a step of the replicated table takes seconds
_LARGEST_RATIO = 1.5


def main() -> None:
    """Measure in turns, print the table, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [100_000, 1_000_000, 10_000_000]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes, help="of each table")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=20, help="of each table in a round")
    options = parser.parse_args()
    sizes = sorted(options.rows)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    steps = {("sharded", rows): _sharded_step(rows) for rows in sizes}
    steps |= {
        ("replicated", rows): _replicated_step(rows)
        for rows in sizes
        if rows <= _LARGEST_REPLICATED
    }
    batches = {rows: [_batch(rows, seed=seed) for seed in range(options.steps)] for rows in sizes}
    times_ms = _measure(steps, batches, num_rounds=options.rounds)
    dist.destroy_process_group()
    sys.exit(_report(times_ms, sizes[0]))


class _Scorer(nn.Module):
    """A table and as little else as gives its rows different gradients."""

    def __init__(self, rows: int, *, config: TablesConfig) -> None:
        super().__init__()
        self.embedder = Embedder([_table(rows)], config=config)
        self.register_buffer("weight_C", torch.linspace(-1, 1, _NUM_FEATURES * _DIM))

    def forward(self, batch: Batch) -> Tensor:
        """Give a loss."""
        return (self.embedder(batch).concatenated_BC() @ self.weight_C).square().mean()


def _table(rows: int) -> LogicalTable:
    readers = tuple(
        Reader(
            key=f"feature_{position}",
            position=position,
            namespace="id",
            num_ids=rows,
            probes=1,
            pooling="mean",
            is_multi_valued=False,
        )
        for position in range(_NUM_FEATURES)
    )
    return LogicalTable(name="table", dim=_DIM, spec=FullTable(dim=_DIM), readers=readers)


def _batch(rows: int, *, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, rows, _NUM_EXAMPLES) for _ in range(_NUM_FEATURES)]
    ids = [Ids(f"feature_{n}", values, None, rows) for n, values in enumerate(columns)]
    none = torch.zeros(0, dtype=torch.int64)
    return Batch(
        ids=keyed_jagged(ids, num_rows=_NUM_EXAMPLES),
        sequences=None,
        dense_BN=torch.zeros(_NUM_EXAMPLES, 0),
        labels_BT=torch.zeros(_NUM_EXAMPLES, 0),
        weights_B=torch.ones(_NUM_EXAMPLES),
        users_B=none,
        targets_B=none,
        seen_values=none,
        seen_lengths_B=none,
    )


def _sharded_step(rows: int) -> Callable[[Batch], None]:
    scorer = shard(
        _Scorer(rows, config=TablesConfig(dense_max_bytes=0)), device=torch.device("cpu")
    )
    for state in scorer.fused_optimizer.state_dict()["state"].values():
        for statistic in state.values():
            for part in statistic.local_shards():
                part.tensor.zero_()  # the first touch of fresh memory is slow
    return lambda batch: scorer(batch).backward()


def _replicated_step(rows: int) -> Callable[[Batch], None]:
    scorer = _Scorer(rows, config=TablesConfig(dense_max_bytes=sys.maxsize))
    optimizer = torch.optim.Adagrad(scorer.parameters(), lr=0.05, fused=True)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        scorer(batch).backward()
        optimizer.step()

    return step


_Case = tuple[str, int]


def _measure(
    steps: dict[_Case, Callable[[Batch], None]],
    batches: dict[int, list[Batch]],
    *,
    num_rounds: int,
) -> dict[_Case, list[float]]:
    """Milliseconds of a step: of each case, the median of every round but the first."""
    times_ms: dict[_Case, list[float]] = {case: [] for case in steps}
    for number in range(num_rounds + 1):
        for (kind, rows), step in steps.items():
            median_ms = statistics.median(_time_ms(step, batch) for batch in batches[rows])
            if number > 0:
                times_ms[kind, rows].append(median_ms)
    return times_ms


def _time_ms(step: Callable[[Batch], None], batch: Batch) -> float:
    started_s = time.perf_counter()
    step(batch)
    return (time.perf_counter() - started_s) * 1e3


def _report(times_ms: dict[_Case, list[float]], smallest: int) -> int:
    """Print the table; give the exit code."""
    print(f"{'table':12} {'rows':>12} {'ms a step':>10} {'ratio':>7}")
    ratios: dict[_Case, float] = {}
    for (kind, rows), times in times_ms.items():
        # Within a round, so that what else the machine does weighs on both alike.
        ratios[kind, rows] = _median_ratio(times, times_ms[kind, smallest])
        print(f"{kind:12} {rows:12,} {statistics.median(times):10.2f} {ratios[kind, rows]:7.2f}")
    largest = max(ratio for (kind, _), ratio in ratios.items() if kind == "sharded")
    if largest > _LARGEST_RATIO:
        print(f"a sharded table's step grows with its rows: {largest:.2f} times the smallest")
        return 1
    return 0


def _median_ratio(times: Sequence[float], reference: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, reference, strict=True))


if __name__ == "__main__":
    main()
