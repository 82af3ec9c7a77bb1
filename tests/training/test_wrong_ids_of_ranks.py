"""A wrong id on one process ends all of them with its message; nothing hangs, nothing is copied."""

import re
from types import SimpleNamespace

import polars as pl
import pytest
import torch
import yaml
from commands import experiment
from data.test_wrong_ids import MEND, signed
from tables.conftest import example_batch, example_tables
from training.runs import data_module, events, write_inputs
from training.test_interruption import outcome

from features.columns import ROW
from features.errors import SchemaMismatchError
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.training.strategy import TorchRecStrategy

RANKING = {
    "class_path": "RankingTask",
    "init_args": {
        "ranker": {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [8]}},
        "tables": {"dense_max_bytes": 0},
    },
}


@pytest.fixture
def spoiled(tmp_path):
    """Inputs with a wrong id near the end of the training rows; gives its message."""
    directory = write_inputs(tmp_path / "inputs")
    store = data_module(directory, "ranking").store
    [file] = store.example_files("train")
    frame = pl.read_parquet(file)
    row = len(frame) - 20
    in_row, wrong = pl.int_range(pl.len()) == row, pl.lit(200, pl.UInt8)
    frame = frame.with_columns(user_id=pl.when(in_row).then(wrong).otherwise("user_id"))
    frame.write_parquet(file)
    signed(store.path)
    raw, of_log = events(directory)["user_id"][frame[ROW][row]], frame[ROW][row]
    return directory, (
        f"got 200 in row {row} of {file}, encoded from {raw!r} in row {of_log} of "
        f"{directory}/data/events.parquet; allowed 0 ... {store.schema.num_ids('user_id') - 1}"
    )


@pytest.mark.slow
def test_the_first_process_tells_what_another_has_found(spoiled):
    directory, said = spoiled
    file = experiment(directory, RANKING, features="ranking.yaml")
    code, output = outcome("train.py", "fit", "-c", file, "--trainer.devices", 2)
    assert code == 2, output
    assert re.search(rf"^features\.user_id: .*{re.escape(said)}; {MEND}$", output, re.MULTILINE)
    assert re.search(rf"^stopped with process 1: features\.user_id: .*{re.escape(said)}", output,
                     re.MULTILINE)  # fmt: skip
    assert "Traceback" not in output


@pytest.mark.slow
def test_torchrun_ends_too(spoiled):
    directory, said = spoiled
    file = experiment(directory, RANKING, features="ranking.yaml")
    content = yaml.safe_load(file.read_text())
    content["data"]["num_workers"] = 1
    file.write_text(yaml.safe_dump(content))
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", 29633)
    code, output = outcome(*torchrun, "train.py", "fit", "-c", file, "--trainer.devices", 2)
    assert code == 1, output
    assert said in output
    assert re.search(r"exitcode *: 2 ", output)
    assert "closed by peer" not in output


def test_batches_are_looked_at_before_they_are_copied_to_a_device():
    """The device may be one on which nothing can be looked at."""
    embedder = Embedder(example_tables(), config=TablesConfig(dense_max_bytes=10**9))

    class Strategy(TorchRecStrategy):
        task = SimpleNamespace(embedder=embedder)

    batch = example_batch()
    copied = Strategy().batch_to_device(batch, torch.device("meta"))
    assert copied.ids.values().device.type == "meta"
    embedder.check(copied)
    batch.ids.values()[3] = 10**6
    with pytest.raises(SchemaMismatchError, match=r"features.user: .* got 1000000 in example 3"):
        Strategy().batch_to_device(batch, torch.device("meta"))
