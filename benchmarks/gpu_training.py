"""What `gpu.py` trains: logs, tasks, and steps that are compared or timed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

NUM_FIELDS, NUM_DENSE, SEED = 26, 13, 0


@dataclass(frozen=True)
class Sizes:
    """How large things are.

    Attributes:
        steps: Of each comparison of numbers.
        examples: Of a timed step.
        timed: Steps of a turn.
        turns: Of each case.
        dim: Width of rows.
        copy_bytes: Of an array of the bandwidth.
        most_rows: Of each table, whatever fits.
    """

    steps: int
    examples: int
    timed: int
    turns: int
    dim: int
    copy_bytes: int
    most_rows: int


@dataclass(frozen=True)
class Case:
    """A small model whose losses are compared.

    Attributes:
        model: `dlrm`, `dcnv2` or `sasrec`.
        optimizer: Of the sharded tables.
        precision: Of the trainer.
        within: Largest difference between losses of the two devices.
        on_cpu: Whether a CPU can train it at all.
        row_dtype: Of the sharded tables.
    """

    model: str
    optimizer: str = "rowwise_adagrad"
    precision: str = "32-true"
    within: float = 1e-4
    on_cpu: bool = True
    row_dtype: str = "fp32"

    @property
    def name(self) -> str:
        """As it is printed."""
        half = "" if self.row_dtype == "fp32" else f" rows {self.row_dtype}"
        return f"{self.model} {self.optimizer} {self.precision}{half}"


# --------------------------------------------------------------------------------------- data
def feature_file(*, rows: int, dim: int) -> str:
    """26 ids with a table of so many rows each, 13 numbers, a label."""
    lines = ["sources: {events: events.parquet}", "label: {name: click}", "features:"]
    for place in range(NUM_FIELDS):
        encoding = f"{{kind: identity, size: {rows}}}"
        lines.append(f"  - {{name: f{place}, kind: categorical, dim: {dim}, encoding: {encoding}}}")
    lines += [f"  - {{name: d{place}, kind: dense}}" for place in range(NUM_DENSE)]
    return "\n".join(lines) + "\n"


SEQUENCES = """
sources: {events: log.parquet}
entity: {user: user_id, item: item_id, time: timestamp}
split: {kind: leave_one_out}
defaults: {dim: 8}
features:
  - {name: item_id, kind: categorical}
  - {name: history, kind: sequence, of: item_id, max_length: 20}
"""


def write_inputs(folder: Path, *, rows: int, dim: int, num_events: int = 2000) -> None:
    """Two logs and their feature files."""
    import numpy as np
    import polars as pl

    draw = np.random.default_rng(SEED)
    ids = {f"f{i}": draw.integers(0, min(rows, 50), num_events) for i in range(NUM_FIELDS)}
    dense = {f"d{i}": draw.random(num_events, dtype=np.float32) for i in range(NUM_DENSE)}
    click = (ids["f0"] + ids["f1"]) % 3 == 0
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pl.DataFrame({**ids, **dense, "click": click}).write_parquet(folder / "data/events.parquet")
    users = draw.integers(0, 200, num_events)
    log = {"user_id": users, "item_id": draw.integers(0, 100, num_events)}
    log["timestamp"] = np.arange(num_events)
    pl.DataFrame(log).with_columns(pl.from_epoch("timestamp", time_unit="s")).write_parquet(
        folder / "data/log.parquet"
    )
    (folder / "clicks.yaml").write_text(feature_file(rows=rows, dim=dim))
    (folder / "items.yaml").write_text(SEQUENCES)


def data_of(folder: Path, *, kind: str, batch_size: int) -> Any:
    """The data module of a log."""
    from recsys.data.module import RecsysData

    return RecsysData(
        str(folder / ("items.yaml" if kind == "sequence" else "clicks.yaml")),
        str(folder / "data"),
        batch_size=batch_size,
        task="sequence" if kind == "sequence" else "ranking",
        store=str(folder / "store"),
    )


def task_of(case: Case, *, host_memory: tuple[str, ...] = ()) -> Any:
    """A task whose tables are all sharded."""
    import torch

    from models import DLRM, DCNv2, SASRec
    from recsys.losses import SampledSoftmax
    from recsys.tables.config import FusedOptimizer, TablesConfig
    from recsys.training.ranking import RankingTask
    from recsys.training.sequence import SequenceTask

    tables = TablesConfig(
        dense_max_bytes=0,
        optimizer=FusedOptimizer(name=case.optimizer, lr=0.05),  # pyright: ignore
        host_memory=host_memory,
        row_dtype=case.row_dtype,  # pyright: ignore
    )
    adam = partial(torch.optim.Adam, lr=1e-3)
    if case.model == "sasrec":
        loss, encoder = SampledSoftmax(num_negatives=16), partial(SASRec, dropout=0.0)
        return SequenceTask(encoder=encoder, loss=loss, optimizer=adam, tables=tables)
    ranker: Any = {"dlrm": DLRM, "dcnv2": partial(DCNv2, mlp=(64, 64))}[case.model]
    return RankingTask(ranker=ranker, optimizer=adam, tables=tables)


# ------------------------------------------------------------------------------------- training
def fit(task: Any, data: Any, *, device: str, precision: str, looks_ahead: bool, callback: Any):
    """Train until the callback stops it."""
    from lightning import Trainer

    from recsys.training.strategy import TorchRecStrategy

    Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        strategy=TorchRecStrategy(looks_ahead=looks_ahead),
        precision=precision,  # pyright: ignore[reportArgumentType]
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(task, datamodule=data)


def losses_of(case: Case, folder: Path, *, device: str, looks_ahead: bool, steps: int) -> dict:
    """Loss of every step, and sums over the tables that are left."""
    from lightning import Callback

    from recsys.tables.plan import local_parts, sharded_weights

    class Keeper(Callback):
        losses: list = []  # noqa: RUF012
        sums: dict = {}  # noqa: RUF012

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.losses.append(outputs["loss"].detach().clone())
            trainer.should_stop = len(self.losses) >= steps

        def on_train_end(self, trainer, pl_module):
            for name, weight in sharded_weights(pl_module.embedder):
                parts = [values.double().square().sum() for values, _, _ in local_parts(weight)]
                self.sums[name] = float(sum(parts))

    keeper = Keeper()
    keeper.losses, keeper.sums = [], {}
    kind = "sequence" if case.model == "sasrec" else "ranking"
    data = data_of(folder, kind=kind, batch_size=64)
    options = {"device": device, "precision": case.precision, "looks_ahead": looks_ahead}
    fit(task_of(case), data, callback=keeper, **options)
    return {"losses": [float(x) for x in keeper.losses], "squares": keeper.sums}


def wait(device: str) -> None:
    """Until the device has done all it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def uniform_batches(*, rows: int, examples: int, pinned: bool, count: int) -> list[Any]:
    """Batches on the CPU, as the loader makes them."""
    import torch
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    from recsys.types import Batch

    draw, found = torch.Generator().manual_seed(SEED), []
    nothing, keys = torch.zeros(0, dtype=torch.int64), [f"f{i}" for i in range(NUM_FIELDS)]
    for _ in range(count):
        ids = torch.randint(0, rows, (NUM_FIELDS * examples,), generator=draw)
        batch = Batch(
            ids=KeyedJaggedTensor(
                keys=keys, values=ids, lengths=torch.ones(len(ids), dtype=torch.int64)
            ),
            sequences=None,
            dense_BN=torch.rand(examples, NUM_DENSE, generator=draw),
            labels_BT=torch.randint(0, 2, (examples, 1), generator=draw).float(),
            weights_B=torch.ones(examples),
            users_B=torch.zeros(examples, dtype=torch.int64),
            targets_B=nothing,
            seen_values=nothing,
            seen_lengths_B=nothing,
        )
        found.append(batch.pin_memory() if pinned else batch)
    return found


class Endless:
    """Stands for a loader that is never waited for."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches

    def set_epoch(self, epoch: int, *, start_batch: int = 0) -> None:
        """All epochs are alike."""

    def pinned(self) -> None:
        """They are already, where there is a GPU."""

    def __len__(self) -> int:
        return 1 << 30

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self._batches


def samples_per_s(
    sizes: Sizes, device: str, folder: Path, *, rows: int, looks_ahead: bool, host: bool
) -> list[float]:
    """Of several turns of steps, after some that are not timed."""
    from lightning import Callback

    from recsys.data.epochs import EpochLoader

    write_inputs(folder, rows=rows, dim=sizes.dim)
    data = data_of(folder, kind="ranking", batch_size=sizes.examples)
    pinned = device == "cuda"
    batches = uniform_batches(rows=rows, examples=sizes.examples, pinned=pinned, count=8)
    data.train_dataloader = lambda: EpochLoader(Endless(batches))  # pyright: ignore
    found: list[float] = []

    class Clock(Callback):
        def __init__(self) -> None:
            self.start, self.left, self.is_warm = 0.0, sizes.timed, False

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.left -= 1
            if self.left:
                return
            wait(device)
            if self.is_warm:
                found.append(sizes.timed * sizes.examples / (time.perf_counter() - self.start))
            trainer.should_stop = len(found) >= sizes.turns
            self.is_warm, self.left, self.start = True, sizes.timed, time.perf_counter()

    names = tuple(f"f{place}" for place in range(NUM_FIELDS)) if host else ()
    options = {"device": device, "precision": "32-true", "looks_ahead": looks_ahead}
    fit(task_of(Case("dlrm"), host_memory=names), data, callback=Clock(), **options)
    return found
