"""Small training runs for tests: a simulated log, a ranker and a sequence model."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from models import BERT4Rec, DCNv2, SASRec
from recsys.checkpoint import DENSE, FUSED, MODEL, read_tensors
from recsys.data.module import RecsysData
from recsys.data.simulate import SimulatorConfig, simulate
from recsys.tables.config import FusedOptimizer, RowDType, TablesConfig
from recsys.training.ranking import RankingTask
from recsys.training.sequence import SequenceTask
from recsys.training.strategy import TorchRecStrategy
from recsys.training.task import Task

RANKING = """
sources:
  events: events.parquet
  users: {path: users.parquet, on: user_id}
  items: {path: items.parquet, on: item_id}
entity: {user: user_id, item: item_id, time: timestamp}
label: {name: click}
defaults: {dim: 8}
features:
  - {name: user_id, kind: categorical}
  - {name: item_id, kind: categorical}
  - {name: tags, kind: categorical, split: "|"}
  - {name: hour, kind: categorical, expr: "extract(hour from timestamp)"}
  - {name: log_price, column: price, kind: dense, transform: log1p, standardize: true}
  - {name: history, kind: sequence, of: item_id, max_length: 5, pooling: mean}
"""
SEQUENCE = """
sources: {events: events.parquet}
entity: {user: user_id, item: item_id, time: timestamp}
split: {kind: leave_one_out}
defaults: {dim: 8}
features:
  - {name: item_id, kind: categorical}
  - {name: history, kind: sequence, of: item_id, max_length: 10}
"""
# The events of a day are ties; an item has none, one or several tags.
TIMED = """
sources: {events: events.parquet, items: {path: items.parquet, on: item_id}}
entity: {user: user_id, item: item_id, time: timestamp}
split: {kind: leave_one_out}
defaults: {dim: 8}
features:
  - {name: device, kind: categorical, dim: 4}
  - {name: item_id, kind: categorical}
  - {name: tags, kind: categorical, split: "|", pooling: sum, dim: 4,
     expr: "case when list_price < 10 then '' else tags end"}
  - {name: history, kind: sequence, of: [device, item_id, tags], max_length: 10,
     times: "cast(timestamp as date)"}
"""


def write_inputs(directory: Path, *, num_events: int = 400) -> Path:
    """A simulated log with both feature files beside it."""
    config = SimulatorConfig(num_users=40, num_items=30, num_events=num_events, seed=0)
    simulate(config, directory / "data")
    (directory / "ranking.yaml").write_text(RANKING)
    (directory / "sequence.yaml").write_text(SEQUENCE)
    (directory / "timed.yaml").write_text(TIMED)
    return directory


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loss = outputs["loss"].detach().clone()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(loss)
        self.values.append(loss.item() / trainer.world_size)


def data_module(directory: Path, kind: str, *, batch_size: int = 64, **options) -> RecsysData:
    kind = "sequence" if kind == "cloze" else kind
    return RecsysData(
        features=str(directory / f"{kind}.yaml"),
        data_dir=str(directory / "data"),
        batch_size=batch_size,
        task="ranking" if kind == "ranking" else "sequence",
        store=str(directory / "store"),
        **options,
    )


def task(
    kind: str, *, dense_max_bytes: int = 0, dropout: float = 0.0, row_dtype: RowDType = "fp32"
):
    tables = TablesConfig(
        dense_max_bytes=dense_max_bytes,
        row_dtype=row_dtype,
        optimizer=FusedOptimizer(name="adagrad", lr=0.05),
    )
    adam = partial(torch.optim.Adam, lr=0.01)
    if kind == "ranking":
        ranker = partial(DCNv2, num_cross_layers=1, mlp=(16,), dropout=dropout)
        return RankingTask(ranker=ranker, optimizer=adam, tables=tables)
    model = {"sequence": SASRec, "cloze": BERT4Rec}[kind]
    return SequenceTask(encoder=partial(model, dropout=dropout), optimizer=adam, ks=(5,))


def fit(
    directory: Path,
    kind: str,
    name: str,
    *,
    world_size: int = 1,
    max_steps: int = 8,
    resume: str | None = None,
    dropout: float = 0.0,
    scheduler=None,
):
    """Train, leave a checkpoint called `name`; give the losses of its steps."""
    built = task(kind, dropout=dropout)
    built.scheduler_factory = scheduler
    data, losses = data_module(directory, kind), Losses()
    fit_task(
        directory,
        built,
        data,
        name,
        world_size=world_size,
        max_steps=max_steps,
        resume=resume,
        callbacks=[losses],
    )
    return losses.values


def fit_task(
    directory: Path,
    built: Task,
    data: RecsysData,
    name: str,
    *,
    world_size: int = 1,
    max_steps: int = 8,
    resume: str | None = None,
    callbacks: Sequence[Callback] = (),
    looks_ahead: bool | None = None,
    val_check_interval: int | None = None,
):
    """Train a task, leave a checkpoint called `name`."""
    saved = ModelCheckpoint(
        dirpath=directory / "checkpoints",
        filename=name,
        every_n_train_steps=max_steps,
        enable_version_counter=False,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy=TorchRecStrategy(looks_ahead=looks_ahead),
        val_check_interval=val_check_interval,
        max_steps=max_steps,
        max_epochs=-1,
        callbacks=[*callbacks, saved],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=directory,
    )
    resumed = str(checkpoint(directory, resume)) if resume else None
    trainer.fit(built, datamodule=data, ckpt_path=resumed)


LAST, STOP = 6, 3


def resume_runs(rank, world_size, directory, sizes):
    """Losses of a whole run, a stopped and a resumed one, with tables of some sizes replicated.

    They leave checkpoints called `whole-SIZE`, `stopped-SIZE`, `resumed-SIZE`.
    """
    found = []
    for size in sizes:
        losses = {name: Losses() for name in ("whole", "stopped", "resumed")}
        for name, of_run in losses.items():
            fit_task(
                directory,
                task("ranking", dense_max_bytes=size),
                data_module(directory, "ranking"),
                f"{name}-{size}",
                world_size=world_size,
                callbacks=[of_run],
                max_steps=STOP if name == "stopped" else LAST,
                resume=f"stopped-{size}" if name == "resumed" else None,
            )
        found.append({name: each.values for name, each in losses.items()})
    return found


def checkpoint(directory: Path, name: str) -> Path:
    return directory / "checkpoints" / f"{name}.ckpt"


def saved_tensors(directory: Path, name: str):
    """All tensors of a checkpoint, whole, of model and optimisers."""
    path = checkpoint(directory, name)
    return {p + k: v for p in (MODEL, FUSED, DENSE) for k, v in read_tensors(path, p).items()}


def events(directory: Path) -> pl.DataFrame:
    return pl.read_parquet(directory / "data" / "events.parquet")
