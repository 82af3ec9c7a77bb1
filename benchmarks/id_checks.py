"""What looking at all ids costs, as a share of a training step.

    OMP_NUM_THREADS=1 python benchmarks/id_checks.py [--batch-sizes 128 1024]

A step is forward, backward and update of a small DCNv2 (two cross layers, 64 hidden units) on ten
features of 100,000 ids and width 16, sharded on one rank. Steps with and without the look of
`BatchChecks` take turns; the look of the loader, in a thread beside training, is timed alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from features.table_spec import FullTable
from models import DCNv2
from recsys.data.jagged import Ids, check_ids, keyed_jagged
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.plan import shard
from recsys.types import Batch, FieldLayout

_NUM_FEATURES, _NUM_IDS, _DIM = 10, 100_000, 16


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--pairs", type=int, default=400, help="of steps with and without")
    options = parser.parse_args()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = _Model()
    sharded = shard(model, device=torch.device("cpu"))
    dense = {*model.ranker.parameters()}
    optimizer = torch.optim.Adam(dense, fused=True)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        sharded(batch).backward()
        optimizer.step()

    heads = ("step ms", "without ms", "look ms", "share", "loader ms")
    print(f"{'batch':>6} " + " ".join(f"{head:>10}" for head in heads))
    for size in options.batch_sizes:
        ids = [_ids(number, size) for number in range(_NUM_FEATURES)]
        batch = _batch(ids, size)
        with_ms, without_ms = _in_turns(step, batch, model.embedder, pairs=options.pairs)
        look_ms = _median_ms(lambda: model.embedder.check(batch), times=options.pairs)  # noqa: B023
        loader_ms = _median_ms(lambda: check_ids(ids), times=options.pairs)  # noqa: B023
        print(
            f"{size:6} {with_ms:10.3f} {without_ms:10.3f} {look_ms:10.3f} "
            f"{look_ms / with_ms:10.2%} {loader_ms:10.3f}",
            flush=True,
        )
    dist.destroy_process_group()


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        names = [f"feature_{number}" for number in range(_NUM_FEATURES)]
        tables = [
            LogicalTable(name, _DIM, FullTable(dim=_DIM), (_reader(name, position),))
            for position, name in enumerate(names)
        ]
        self.embedder = Embedder(tables, config=TablesConfig(dense_max_bytes=0))
        layout = FieldLayout(dict.fromkeys(names, _DIM), {}, {}, ("click",))
        self.ranker = DCNv2(layout, num_cross_layers=2, mlp=(64,))

    def forward(self, batch: Batch) -> Tensor:
        """Give a loss."""
        return self.ranker(self.embedder(batch)).square().mean()


def _reader(name: str, position: int) -> Reader:
    return Reader(name, position, name, _NUM_IDS, 1, "mean", False)


def _ids(number: int, size: int) -> Ids:
    values = np.random.default_rng(number).integers(0, _NUM_IDS, size)
    return Ids(f"feature_{number}", values, None, _NUM_IDS)


def _batch(ids: list[Ids], size: int) -> Batch:
    none = torch.zeros(0, dtype=torch.int64)
    return Batch(
        ids=keyed_jagged(ids, num_rows=size),
        sequences=None,
        dense_BN=torch.zeros(size, 0),
        labels_BT=torch.zeros(size, 1),
        weights_B=torch.ones(size),
        users_B=none,
        targets_B=none,
        seen_values=none,
        seen_lengths_B=none,
    )


def _in_turns(
    step: Callable[[Batch], None], batch: Batch, embedder: Embedder, *, pairs: int
) -> tuple[float, float]:
    """Median milliseconds of a step with the look, and of one without."""
    times_ms: dict[bool, list[float]] = {True: [], False: []}
    checks = embedder._checks
    look = checks.check
    for number in range(2 * pairs + 20):
        looks = bool(number % 2)
        checks.check = look if looks else _nothing
        started_s = time.perf_counter()
        step(batch)
        if number >= 20:
            times_ms[looks].append((time.perf_counter() - started_s) * 1e3)
    checks.check = look
    return statistics.median(times_ms[True]), statistics.median(times_ms[False])


def _nothing(batch: Batch) -> None:
    """Look at nothing."""


def _median_ms(function: Callable[[], object], *, times: int) -> float:
    found = []
    for _ in range(times):
        started_s = time.perf_counter()
        function()
        found.append((time.perf_counter() - started_s) * 1e3)
    return statistics.median(found)


if __name__ == "__main__":
    main()
