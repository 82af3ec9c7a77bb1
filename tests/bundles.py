"""Models that were trained, and bundles of them, for tests of scoring."""

import inspect

import numpy as np
import polars as pl
from commands import experiment, recsys_command, train_command

import models
from recsys.checkpoint import read_manifest
from recsys.data.module import RecsysData
from recsys.data.simulate import SimulatorConfig, simulate
from recsys.protocols import SequenceEncoder
from recsys.trained import load_task

ENCODERS = [n for n in models.__all__ if issubclass(getattr(models, n), SequenceEncoder)]
HISTORY_RANKERS = [n for n in models.__all__ if getattr(getattr(models, n), "reads_histories", 0)]
RANKERS = [name for name in models.__all__ if name not in ENCODERS + HISTORY_RANKERS]
SIZES = {
    "DCNv2": {"num_cross_layers": 1, "mlp": [8]},
    "DLRM": {"bottom_mlp": [8], "top_mlp": [8]},
    "DeepFM": {"mlp": [8]},
}


def write_data(directory):
    config = SimulatorConfig(num_users=40, num_items=30, num_events=500, seed=0)
    simulate(config, directory)
    items = pl.read_parquet(directory / "items.parquet")
    codes = [list(range(row % 4)) for row in range(len(items))]
    places = np.random.default_rng(0).normal(size=(len(items), 2)).tolist()
    items = items.with_columns(
        codes=pl.Series(codes, dtype=pl.List(pl.Int64)), place=pl.Series(places)
    )
    items.write_parquet(directory / "items.parquet")


def train(directory, names, *, features, encoder=None, tables=None, warm_up=False, **settings):
    """Runs and bundles of models of one kind, below `directory`.

    Rankers' tables are all sharded unless `tables` says otherwise. Sequence models can be given
    settings of the encoder, where it knows them, and of the task.
    """
    tables = {"dense_max_bytes": 0} if tables is None else tables
    more_of_run = ("--run.test", "false", "--run.warm_up", str(warm_up).lower())
    write_data(directory / "data")
    kind = "sequence" if names[0] in ENCODERS else "ranking"
    (directory / f"{kind}.yaml").write_text(features)
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}}
    for name in names:
        known = inspect.signature(getattr(models, name)).parameters
        more = {key: value for key, value in (encoder or {}).items() if key in known}
        model = {"class_path": name, "init_args": SIZES.get(name, {}) | more}
        if kind == "ranking":
            arguments = {"ranker": model, "optimizer": adam, "tables": tables}
        else:
            arguments = {"encoder": model, "optimizer": adam, "ks": [5], **settings}
        task = {"class_path": f"{kind.title()}Task", "init_args": arguments}
        file = experiment(directory, task, features=f"{kind}.yaml", name=name)
        assert train_command("fit", "-c", file, *more_of_run) == 0
        bundle = directory / "bundles" / name
        assert recsys_command("export", directory / "runs" / name, "--out", bundle) == 0
    return directory


def data_module(trained, kind):
    data = RecsysData(
        str(trained / f"{kind}.yaml"),
        str(trained / "data"),
        batch_size=64,
        task=kind,
        store=str(trained / "store"),
    )
    data.prepare_data()
    return data


def task_of(trained, name):
    """The trained task itself, not the exported program."""
    checkpoint = checkpoint_of(trained, name)
    return load_task(checkpoint, read_manifest(checkpoint))


def checkpoint_of(trained, name):
    return trained / "runs" / name / "checkpoints" / "best.ckpt"


def score(trained, name, data, out, *arguments):
    assert recsys_command("score", trained / "bundles" / name, data, "--out", out, *arguments) == 0
    assert not out.with_name(out.name + ".partial").exists()
    return pl.read_parquet(out / "*.parquet")
