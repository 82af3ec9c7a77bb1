"""Settings that cannot be had are refused, and those that can mean what they say."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from gloo import run_processes
from lightning import Callback
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from training.runs import data_module, fit_task, task, write_inputs

from features.errors import RunConfigError
from models import DARE
from recsys.tables.fused import count_updates_from, num_updates
from recsys.training.run import is_first_process
from recsys.training.trainer_settings import check_trainer_settings


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("settings"))


def test_a_schedule_that_needs_a_metric_is_refused(directory):
    built = task("ranking")
    built.build(data_module(directory, "ranking").schema)
    built.scheduler_factory = ReduceLROnPlateau
    with pytest.raises(RunConfigError, match=r"scheduler: follows the steps, not a metric"):
        built.configure_optimizers()


@pytest.mark.parametrize(("interval", "is_allowed"), [(0.5, True), (7, True), ("00:10:00", False)])
def test_validations_are_counted_in_batches(interval, is_allowed):
    chosen = dict.fromkeys(("max_epochs", "max_steps", "precision", "sync_batchnorm"))
    chosen |= dict.fromkeys(("enable_checkpointing", "fast_dev_run"))
    chosen = SimpleNamespace(**chosen, strategy="auto", val_check_interval=interval)
    if is_allowed:
        check_trainer_settings(chosen)
        return
    with pytest.raises(RunConfigError, match=r"val_check_interval: each process has its own clock"):
        check_trainer_settings(chosen)


def test_rankers_that_train_by_parts_are_not_compiled():
    built = task("ranking")
    built.compiles, built.ranker = True, DARE.__new__(DARE)
    torch.nn.Module.__init__(built.ranker)
    built.embedder = SimpleNamespace(sharded_tables=tuple, updated_by_schemes=tuple)
    trainer = SimpleNamespace(
        world_size=1,
        precision="32-true",
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    with pytest.raises(RunConfigError, match=r"compile: DARE trains by parts of itself"):
        built.check_settings(trainer)


@pytest.mark.parametrize(
    ("environment", "is_first"),
    [
        ({}, True),
        ({"RANK": "0", "SLURM_PROCID": "3"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),  # below an interactive shell
        ({"SLURM_PROCID": "1"}, False),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
    ],
)
def test_the_first_process_of_a_run(monkeypatch, environment, is_first):
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == is_first


@pytest.mark.parametrize("kind", ["ranking", "sequence"])
def test_evaluation_is_in_full_precision(directory, kind):
    data = data_module(directory, kind)
    built, found = task(kind), []
    built.build(data.schema)
    built.embedder.materialize()
    batch = next(iter(data.val_dataloader()))
    for step in (built.validation_step, built.test_step):
        built.collect = lambda batch, split: found.append((split, torch.is_autocast_enabled("cpu")))
        with torch.autocast("cpu", torch.bfloat16):
            step(batch, 0)
            assert torch.is_autocast_enabled("cpu")
    assert found == [("val", False), ("test", False)]


class TableRates(Callback):
    """The learning rate of sharded tables at each step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        [group] = trainer.strategy.sharded.fused_optimizer.param_groups
        self.values.append(group["lr"])


def counted(rank, world_size, directory):
    """What the kernels of a resumed run count from, where those of the first counted to 7."""
    found = []

    class Count(Callback):
        def on_train_start(self, trainer, pl_module):
            found.append(num_updates(trainer.strategy.sharded))
            count_updates_from(trainer.strategy.sharded, 7)

    for steps, resume in ((2, None), (4, "counted-2")):
        built = task("ranking", dense_max_bytes=0)
        data, name = data_module(directory, "ranking"), f"counted-{steps}"
        fit_task(directory, built, data, name, max_steps=steps, resume=resume, callbacks=[Count()])
    return found


def test_kernels_count_on_where_the_checkpoint_was(directory):
    assert run_processes(1, counted, directory, directory) == [0, 7]


def rates(rank, world_size, directory):
    built, seen = task("ranking", dense_max_bytes=0), TableRates()
    built.scheduler_factory = partial(OneCycleLR, max_lr=0.02, total_steps=8)
    fit_task(directory, built, data_module(directory, "ranking"), "rates", callbacks=[seen])
    return seen.values, built.tables_config.optimizer.lr


def test_tables_reach_their_rate_at_the_peak_of_a_schedule(directory):
    found, of_tables = run_processes(1, rates, directory, directory)
    assert max(found) == pytest.approx(of_tables, rel=0.05)
    assert min(found) < of_tables / 10
