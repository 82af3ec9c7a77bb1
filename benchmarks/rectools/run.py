"""RecTools' side of `sequence_speed.py`: fits one model, then ranks the catalogue for every user.

Run by the Python of RecTools' own environment (requirements.txt beside this file), which knows
nothing of this project:

    python run.py --settings settings.json --events events.parquet --out DIRECTORY

`events` has the columns user_id, item_id, place (of the event in its user's sequence), is_train.
The model is fitted on training events, and ranks for what comes after all events. `report.json`
and `recommended.parquet` are written to the directory; the report is printed too, as one line.
"""

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import pandas as pd
import polars as pl
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel
from rectools.models.nn.transformers.base import TransformerModelBase


class Epochs(Callback):
    """Times each epoch from its start to the end of its last step, and keeps its mean loss.

    Args:
        attention_dropout: Share of attention weights set to zero. RecTools has no setting for it
            and takes that of all dropout.
    """

    def __init__(self, *, attention_dropout: float) -> None:
        self.attention_dropout = attention_dropout
        self.epochs: list[dict[str, float]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the dropout of attention."""
        for module in pl_module.modules():
            if isinstance(module, torch.nn.MultiheadAttention):
                module.dropout = self.attention_dropout

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._started_s = self._stopped_s = time.perf_counter(), time.process_time()
        self._losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx
    ) -> None:
        """Read the clocks, in case that this step is the last."""
        self._losses.append(float(outputs["loss"]))
        self._stopped_s = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch."""
        wall_s, cpu_s = (b - a for a, b in zip(self._started_s, self._stopped_s, strict=True))
        loss = sum(self._losses) / len(self._losses)
        self.epochs.append({"wall_s": wall_s, "cpu_s": cpu_s, "loss": loss})


def main() -> None:
    """Fit, rank, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--settings", "--events", "--out"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    settings = json.loads(options.settings.read_text())
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(settings["threads"])

    columns = pl.read_parquet(options.events).to_dict()
    events = pd.DataFrame({name: column.to_numpy() for name, column in columns.items()})
    model, epochs = _fit(events[events["is_train"]], settings)
    users, history = events["user_id"].unique(), _dataset(events)
    passes = []
    for _ in range(settings["passes"]):
        started_s = time.perf_counter(), time.process_time()
        ranked = model.recommend(users, history, k=settings["k"], filter_viewed=True)
        stopped_s = time.perf_counter(), time.process_time()
        wall_s, cpu_s = (b - a for a, b in zip(started_s, stopped_s, strict=True))
        passes.append({"wall_s": wall_s, "cpu_s": cpu_s})
    wanted = {"user_id": Columns.User, "item_id": Columns.Item, "rank": Columns.Rank}
    recommended = pl.DataFrame({name: ranked[column].to_numpy() for name, column in wanted.items()})
    recommended.write_parquet(options.out / "recommended.parquet")
    report = json.dumps(
        {
            "epochs": epochs.epochs,
            "passes": passes,
            "num_parameters": sum(p.numel() for p in model.torch_model.parameters()),
            "num_threads": torch.get_num_threads(),
        }
    )
    (options.out / "report.json").write_text(report)
    print(report)


def _fit(events: pd.DataFrame, settings: dict) -> tuple[TransformerModelBase, Epochs]:
    seed_everything(settings["seed"])
    model = _model(settings)
    model._trainer = Trainer(  # as RecTools documents it for trainers with callbacks
        accelerator="cpu",
        devices=1,
        max_epochs=settings["epochs"],
        callbacks=[Epochs(attention_dropout=settings["attention_dropout"])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model.fit(_dataset(events))
    [epochs] = [c for c in model.fit_trainer.callbacks if isinstance(c, Epochs)]
    return model, epochs


def _model(settings: dict) -> TransformerModelBase:
    shared = {
        "n_blocks": settings["num_blocks"],
        "n_heads": settings["num_heads"],
        "n_factors": settings["width"],
        "session_max_len": settings["length"],
        "dropout_rate": settings["dropout"],
        "loss": "softmax",
        "lr": settings["lr"],
        "batch_size": settings["batch_size"],
        "recommend_batch_size": settings["eval_batch_size"],
        "recommend_torch_device": "cpu",
        "dataloader_num_workers": 0,
    }
    if settings["model"] == "sasrec":
        return SASRecModel(**shared)
    return BERT4RecModel(**shared, mask_prob=settings["mask_share"])


def _dataset(events: pd.DataFrame) -> Dataset:
    columns = {
        Columns.User: events["user_id"],
        Columns.Item: events["item_id"],
        Columns.Weight: 1.0,
        Columns.Datetime: pd.to_datetime(events["place"], unit="s"),
    }
    return Dataset.construct(pd.DataFrame(columns))


if __name__ == "__main__":
    main()
