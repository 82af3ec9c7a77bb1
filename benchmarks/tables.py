"""Steps per second of one table, and the memory traffic of them against what the machine can do.

    OMP_NUM_THREADS=1 python benchmarks/tables.py [--quick] [--large] [--json FILE]

A step is forward, backward and update of 4096 examples (or `--examples`) with 4 uniform ids each,
summed. At every number of rows and width, beside each other: schemes of this project, sharded on
one rank and updated inside the backward pass; fbgemm's kernel alone, in 32 and 16 bits; torch's
`EmbeddingBag` with sparse gradients, and with dense ones, which visit every row. Cases take turns;
a ratio is the median of those within a round, to `EmbeddingBag` with sparse gradients and SGD.

GB/s counts what a step has to move: each row once in the forward pass, read and written in the
update, and the optimiser's numbers of these rows read and written. It is compared with a triad
(a = b + s c) of arrays far beyond the caches, in the same run. Rows that a cache holds may pass it.
"""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.table_spec import FullTable, HashTable, MultihashTable, UnifiedTable
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.plan import shard
from recsys.types import Batch

_PER_EXAMPLE = 4
_LARGEST_DENSE = 1_000_000  # rows; beyond, a dense step takes seconds
_LR = 0.01
_SCHEMES = {
    "full": lambda rows, dim: FullTable(dim=dim),
    "hash": lambda rows, dim: HashTable(scheme="hash", rows=rows, dim=dim),
    "unified": lambda rows, dim: UnifiedTable(scheme="unified", rows=rows, dim=dim),
    "multihash": lambda rows, dim: MultihashTable(
        scheme="multihash", rows=rows, dim=dim, weighted=False
    ),
}
_KERNELS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "sgd": EmbOptimType.EXACT_SGD,
}
Step = Callable[[Tensor], None]


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        kind: `recsys`, `fbgemm`, `torch sparse` or `torch dense`.
        scheme: Of the table; `full` but for recsys.
        optimizer: That updates it.
        dtype: `fp32` or `fp16`.
        rows: V.
        dim: D.
        examples: Of a step.
    """

    kind: str
    scheme: str
    optimizer: str
    dtype: str
    rows: int
    dim: int
    examples: int

    @property
    def state_numbers(self) -> int:
        """Numbers of 32 bits that the optimiser keeps of a row."""
        each = {"sgd": 0, "rowwise_adagrad": 1, "adagrad": self.dim, "adam": 2 * self.dim}
        return each[self.optimizer]

    @property
    def table_bytes(self) -> int:
        """Of weights and optimiser; dense gradients are a table more."""
        per_row = self.dim * (2 if self.dtype == "fp16" else 4) + 4 * self.state_numbers
        return self.rows * (per_row + (4 * self.dim if self.kind == "torch dense" else 0))

    @property
    def step_bytes(self) -> int:
        """That a step has to move; multihash looks up two rows of each id."""
        lookups = self.examples * _PER_EXAMPLE * (2 if self.scheme == "multihash" else 1)
        number = 2 if self.dtype == "fp16" else 4
        return lookups * (3 * self.dim * number + 2 * 4 * self.state_numbers)

    def __str__(self) -> str:
        """Its name in the table."""
        return f"{self.kind} {self.scheme} {self.optimizer} {self.dtype}"


def main() -> None:
    """Measure in turns, group by group; print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--examples", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="of each case in a round")
    parser.add_argument("--quick", action="store_true", help="10,000 rows of width 16, 2 rounds")
    parser.add_argument("--large", action="store_true", help="also 10^8 rows of 16 in 16 bits")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.widths, options.rounds, options.steps = [10_000], [16], 2, 2
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    bandwidth = triad_bytes_per_s(num_bytes=(32 if options.quick else 256) << 20)
    print(f"memory: {bandwidth / 1e9:.1f} GB/s (triad, {torch.get_num_threads()} threads)")
    print(f"{'case':38} {'rows':>11} {'width':>5} {'ms':>8} {'steps/s':>8} {'ratio':>6} "
          f"{'GB/s':>6} {'of memory':>9}", flush=True)  # fmt: skip
    found = []
    for rows, dim in [(rows, dim) for dim in options.widths for rows in sorted(options.rows)]:
        found += _measured(_cases(rows, dim, options.examples), options, bandwidth)
    if options.large:
        large = Case("fbgemm", "full", "rowwise_adagrad", "fp16", 10**8, 16, options.examples)
        found += _measured([large], options, bandwidth)
    if options.json:
        content = {"memory_bytes_per_s": bandwidth, "cases": found}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    dist.destroy_process_group()


def triad_bytes_per_s(*, num_bytes: int, times: int = 5) -> float:
    """What a = b + s c moves in a second: two arrays read, one written; the best of several."""
    b, c = (torch.ones(num_bytes // 4) for _ in range(2))
    a = torch.zeros_like(b)
    seconds = min(_seconds(lambda: torch.add(b, c, alpha=0.5, out=a)) for _ in range(times))
    return 3 * num_bytes / seconds


def _cases(rows: int, dim: int, examples: int) -> list[Case]:
    """All of one size; the reference first."""
    size = (rows, dim, examples)
    found = [Case("torch sparse", "full", "sgd", "fp32", *size)]
    found.append(Case("torch sparse", "full", "adam", "fp32", *size))
    if rows <= _LARGEST_DENSE:
        found.append(Case("torch dense", "full", "adam", "fp32", *size))
    for dtype in ("fp32", "fp16"):
        found += [Case("fbgemm", "full", name, dtype, *size) for name in _KERNELS]
    found += [Case("recsys", "full", name, "fp32", *size) for name in ("sgd", "adagrad")]
    found += [Case("recsys", s, "rowwise_adagrad", "fp32", *size) for s in _SCHEMES]
    return found


def _measured(
    cases: list[Case], options: argparse.Namespace, bandwidth: float
) -> list[dict[str, object]]:
    """Time the cases of one size in turns and print a line of each."""
    steps: dict[Case, Step] = {}
    for case in cases:
        if case.table_bytes > 0.4 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            print(f"{case!s:38} {case.rows:11,} {case.dim:5}  left out: too little memory")
            continue
        steps[case] = _step(case)
    times_s: dict[Case, list[float]] = {case: [] for case in steps}
    for number, batches in enumerate(_batches(cases[0].rows, options)):
        for case, step in steps.items():
            seconds = statistics.median(_seconds(lambda ids=ids: step(ids)) for ids in batches)  # noqa: B023
            if number > 0:  # the first touches fresh memory
                times_s[case].append(seconds)
    del steps
    gc.collect()
    return [_line(case, times_s[case], times_s.get(cases[0], []), bandwidth) for case in times_s]


def _line(
    case: Case, times_s: list[float], reference_s: list[float], bandwidth: float
) -> dict[str, object]:
    seconds = statistics.median(times_s)
    ratio = statistics.median(a / b for a, b in zip(times_s, reference_s, strict=True))
    rate = case.step_bytes / seconds
    print(
        f"{case!s:38} {case.rows:11,} {case.dim:5} {seconds * 1e3:8.2f} {1 / seconds:8.1f} "
        f"{ratio:6.2f} {rate / 1e9:6.2f} {rate / bandwidth:9.1%}",
        flush=True,
    )
    return {**asdict(case), "step_s": seconds, "ratio": ratio, "bytes_per_s": rate}


def _batches(rows: int, options: argparse.Namespace) -> Iterator[list[Tensor]]:
    rng = torch.Generator().manual_seed(0)
    for _ in range(options.rounds + 1):
        size = (options.examples * _PER_EXAMPLE,)
        yield [torch.randint(0, rows, size, generator=rng) for _ in range(options.steps)]


def _step(case: Case) -> Step:
    """What is timed, from ids to updated rows."""
    makers = {"recsys": _recsys, "fbgemm": _fbgemm}
    return makers.get(case.kind, _torch)(case)


def _torch(case: Case) -> Step:
    is_sparse = case.kind == "torch sparse"
    table = nn.EmbeddingBag(case.rows, case.dim, mode="sum", sparse=is_sparse)
    if case.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(table.parameters(), lr=_LR)
    elif is_sparse:
        optimizer = torch.optim.SparseAdam(table.parameters(), lr=_LR)
    else:
        optimizer = torch.optim.Adam(table.parameters(), lr=_LR, fused=True)
    gradient = torch.full((case.examples, case.dim), 1e-3)

    def step(ids: Tensor) -> None:
        optimizer.zero_grad()
        table(ids.view(case.examples, _PER_EXAMPLE)).backward(gradient)
        optimizer.step()

    return step


def _fbgemm(case: Case) -> Step:
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(case.rows, case.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=_KERNELS[case.optimizer],
        weights_precision=SparseType.FP16 if case.dtype == "fp16" else SparseType.FP32,
        stochastic_rounding=False,
        learning_rate=_LR,
    )
    for weights in table.split_embedding_weights():
        weights.fill_(0.01)  # the first touch of fresh memory is slow
    for states in table.split_optimizer_states():
        for state in states:
            state.zero_()
    gradient = torch.full((case.examples, case.dim), 1e-3)
    offsets = torch.arange(0, case.examples * _PER_EXAMPLE + 1, _PER_EXAMPLE)
    return lambda ids: table(ids, offsets).backward(gradient)


class _Bag(nn.Module):
    """One table of this project, whose sums are the only field."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        reader = Reader("ids", 0, "ids", case.rows, 1, "sum", True)
        table = LogicalTable(
            "table", case.dim, _SCHEMES[case.scheme](case.rows, case.dim), (reader,)
        )
        optimizer = FusedOptimizer(name="rowwise_adagrad", lr=_LR)
        config = TablesConfig(dense_max_bytes=0, optimizer=optimizer)
        self.embedder = Embedder([table], config=config)

    def forward(self, batch: Batch) -> Tensor:
        """Give the sums."""
        return self.embedder(batch).fields["ids"]


def _recsys(case: Case) -> Step:
    model = shard(_Bag(case), device=torch.device("cpu"))
    for state in model.fused_optimizer.state_dict()["state"].values():
        for statistic in state.values():
            for part in statistic.local_shards():
                part.tensor.zero_()
    gradient = torch.full((case.examples, case.dim), 1e-3)
    return lambda ids: model(_batch(ids)).backward(gradient)


def _batch(ids: Tensor) -> Batch:
    none, num_examples = torch.zeros(0, dtype=torch.int64), len(ids) // _PER_EXAMPLE
    return Batch(
        ids=KeyedJaggedTensor(
            keys=["ids"],
            values=ids,
            lengths=torch.full((num_examples,), _PER_EXAMPLE),
            length_per_key=[len(ids)],
        ),
        sequences=None,
        dense_BN=torch.zeros(num_examples, 0),
        labels_BT=torch.zeros(num_examples, 0),
        weights_B=torch.ones(num_examples),
        users_B=none,
        targets_B=none,
        seen_values=none,
        seen_lengths_B=none,
    )


def _seconds(function: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    function()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
