"""What two processes learned goes on in one, and the other way."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from gloo import run_processes
from training.runs import RANKING, Trainer, checkpoint, write_inputs

from features.edits.continuing import continue_schema
from features.fit import fit_schema
from features.load import load_feature_set
from features.sources import scan_events
from features.split import assign_split
from models import DCNv2
from recsys.checkpoint import FUSED, MODEL, read_manifest, read_schema, read_tensors
from recsys.data.module import RecsysData
from recsys.migration.migration import plan_migration
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.stores import table_names
from recsys.training.continuing import continued_schema
from recsys.training.ranking import RankingTask
from recsys.training.strategy import TorchRecStrategy

pytestmark = pytest.mark.slow

EDITED = RANKING.replace("{name: user_id,", "{name: who, renamed_from: user_id, column: user_id,")
TABLES = {"dense_max_bytes": 0, "optimizer": {"name": "rowwise_adagrad", "lr": 0.05}}
CONFIG = {
    "seed_everything": 0,
    "model": {
        "class_path": "RankingTask",
        "init_args": {
            "ranker": {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [16]}},
            "tables": TABLES,
        },
    },
}


def train(rank, world_size, directory, name, features, start, steps):
    """Some steps, from the seed or from a checkpoint; leaves a checkpoint."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    tables = TablesConfig(
        dense_max_bytes=0,
        optimizer=FusedOptimizer(name="rowwise_adagrad", lr=0.05),
        sharding={"item_id": "row_wise"},
    )
    task = RankingTask(
        ranker=partial(DCNv2, num_cross_layers=1, mlp=(16,)),
        optimizer=partial(torch.optim.Adam, lr=0.01),
        tables=tables,
    )
    task.config = CONFIG
    file = directory / features
    data = RecsysData(
        features=str(file),
        data_dir=str(directory / "data"),
        batch_size=64,
        store=str(directory / "store"),
    )
    if start is not None:
        data.given_schema = continued_schema(start, data.feature_set, file=file)
        task.continue_from = start
    trainer = Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy=TorchRecStrategy(),
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(task, datamodule=data)
    trainer.save_checkpoint(checkpoint(directory, name))
    return trainer.global_step


def tables_of(path: Path):
    """Weights and state of all tables, by name."""
    tensors = read_tensors(path, MODEL)
    weights = {t: tensors[n] for t, n in table_names(tensors).items()}
    states = {n.split(".")[-2]: t for n, t in read_tensors(path, FUSED).items()}
    return weights, states


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_learning_goes_on_with_another_number_of_processes(tmp_path, before, after):
    directory = write_inputs(tmp_path)
    (directory / "edited.yaml").write_text(EDITED)
    run_processes(before, train, directory, directory, "first", "ranking.yaml", None, 4)
    old = checkpoint(directory, "first")
    feature_set = load_feature_set(directory / "edited.yaml")
    events = scan_events(feature_set, directory / "data")
    fitted = fit_schema(feature_set, assign_split(feature_set, events))
    schema = continue_schema(read_schema(old), feature_set, fitted=fitted)
    new = checkpoint(directory, "moved")
    plan_migration(old, schema).write(new)
    was, now = tables_of(old), tables_of(new)
    for part, of_part in zip(was, now, strict=True):
        for name, tensor in of_part.items():
            assert torch.equal(tensor, part["user_id" if name == "who" else name]), name
    steps = run_processes(after, train, directory, directory, "last", "edited.yaml", new, 4)
    assert steps == 4
    assert read_manifest(checkpoint(directory, "last")).step == 4
    weights, _ = tables_of(checkpoint(directory, "last"))
    moved = (weights["item_id"] - now[0]["item_id"]).abs().amax()
    assert 0 < moved < 1  # it learned, and began where it was
