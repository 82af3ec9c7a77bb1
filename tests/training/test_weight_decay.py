"""Weight decay of tables alone: what it shrinks, and where it cannot be had."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from gloo import run_processes
from training.runs import data_module, fit_task, task, write_inputs

from features.errors import CheckpointMismatchError, RunConfigError
from recsys.checkpoint import Manifest, read_manifest, write_checkpoint
from recsys.tables.config import TablesConfig
from recsys.trained import untrained_task
from recsys.training.dense_optimizer import dense_optimizer

REPLICATED = 10**9


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("weight_decay"))


def built(directory, *, weight_decay, dense_max_bytes=REPLICATED, optimizer=None):
    made = task("ranking", dense_max_bytes=dense_max_bytes)
    made.tables_config = TablesConfig(dense_max_bytes=dense_max_bytes, weight_decay=weight_decay)
    if optimizer is not None:
        made.optimizer_factory = optimizer
    made.build(data_module(directory, "ranking").schema)
    return made


def change_without_gradient(made):
    """The share by which a step without gradients shrinks tables and layers."""
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    for parameter in made.parameters():
        parameter.grad = torch.zeros_like(parameter)
    dense_optimizer(made.optimizer_factory, model=made, embedder=made.embedder).step()
    shares = {True: set(), False: set()}
    for name, parameter in made.named_parameters():
        if before[name].any():
            share = parameter.detach().norm() / before[name].norm()
            shares[name.startswith("embedder.")].add(round(float(share), 5))
    return shares[True], shares[False]


@pytest.mark.parametrize(
    ("of_tables", "of_optimizer", "tables", "layers"),
    [
        (0.1, 0.0, 0.95, 1.0),
        (0.0, 0.1, 1.0, 0.95),
        (0.1, 0.2, 0.95, 0.9),
        (None, 0.1, 0.95, 0.95),
    ],
)
def test_only_tables_have_it(directory, of_tables, of_optimizer, tables, layers):
    sgd = partial(torch.optim.SGD, lr=0.5, weight_decay=of_optimizer)
    made = built(directory, weight_decay=of_tables, optimizer=sgd)
    assert change_without_gradient(made) == ({tables}, {layers})


@pytest.mark.parametrize("of_tables", [0.1, None])
def test_thresholds_have_none(tmp_path, of_tables):
    directory = write_inputs(tmp_path)
    text = (directory / "ranking.yaml").read_text()
    tables = "tables:\n  network: {scheme: dhe, rows: 40}\n  soft: {scheme: pep, rows: 10}\n"
    for name, table in (("user_id", "network"), ("item_id", "soft")):
        text = text.replace(f"{name}, kind: cat", f"{name}, table: {table}, kind: cat")
    (directory / "ranking.yaml").write_text(tables + text)
    adam = partial(torch.optim.Adam, weight_decay=0.2)
    made = built(directory, weight_decay=of_tables, optimizer=adam)
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    threshold = "embedder.schemes.soft.logits_FD"
    expected = {
        n: 0 if n == threshold else of_tables if of_tables and n.startswith("embedder.") else 0.2
        for n in names.values()
    }
    groups = made.configure_optimizers().param_groups
    assert {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]} == expected
    assert sum(len(group["params"]) for group in groups) == len(expected)


def test_an_optimizer_that_has_none_is_refused(directory):
    made = built(directory, weight_decay=0.1, optimizer=torch.optim.Rprop)
    with pytest.raises(RunConfigError, match=r"tables.weight_decay: .* got 0.1 for Rprop; allowed"):
        made.configure_optimizers()


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf")])
def test_it_shrinks(wrong):
    with pytest.raises(RunConfigError, match=r"tables.weight_decay: shrinks numbers, got"):
        TablesConfig(weight_decay=wrong)


def test_sharded_tables_cannot_have_it(directory):
    trainer = SimpleNamespace(
        world_size=1,
        precision="32-true",
        accumulate_grad_batches=1,
        gradient_clip_val=None,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    built(directory, weight_decay=0.0, dense_max_bytes=0).check_settings(trainer)
    built(directory, weight_decay=0.1).check_settings(trainer)
    with pytest.raises(RunConfigError, match=r"tables.weight_decay: .* the sharded tables user_id"):
        built(directory, weight_decay=0.1, dense_max_bytes=0).check_settings(trainer)


def resume_with_and_without(rank, world_size, directory):
    """What is said of a checkpoint with a weight decay of tables where there is to be none."""

    def train(name, *, weight_decay, **options):
        made = built(directory, weight_decay=weight_decay)
        fit_task(directory, made, data_module(directory, "ranking"), name, **options)

    train("with", weight_decay=0.1, max_steps=2)
    train("again", weight_decay=0.1, max_steps=3, resume="with")
    with pytest.raises(CheckpointMismatchError) as raised:
        train("without", weight_decay=None, max_steps=3, resume="with")
    return str(raised.value)


def test_a_checkpoint_knows_whether_tables_had_one(directory):
    said = run_processes(1, resume_with_and_without, directory, directory)
    assert "tables had a weight decay of their own there, got tables.weight_decay None" in said


def test_an_untrained_copy_of_a_run_has_it_too(directory):
    """`inspect-roles --train` trains as the run did."""
    arguments = {"ranker": {"class_path": "models.FM"}, "tables": {"weight_decay": 0.1}}
    made = built(directory, weight_decay=0.1)
    config = {"model": {"class_path": "RankingTask", "init_args": arguments}}
    schema = made.schema
    path = directory / "made.ckpt"
    manifest = Manifest(0, 0, 0, schema.fingerprint(), config=config)
    write_checkpoint(path, tensors={}, trainer={}, manifest=manifest, schema=schema)
    copy = untrained_task(path, read_manifest(path))
    assert copy.tables_config.weight_decay == 0.1
