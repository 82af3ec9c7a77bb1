"""Sharded tables against a plain, unsharded module trained by torch's own optimisers."""

import pytest
import torch
import torch.distributed as dist
from gloo import WORLD_SIZES, run_processes, whole
from tables.conftest import example_batch, example_tables
from torchrec.optim import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import RunConfigError
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.plan import shard
from recsys.tables.pooling import pool
from recsys.tables.schemes import build_scheme
from recsys.types import Batch

LR, EPS, STEPS = 0.1, 1e-8, 4
# All but the tiny one, which is replicated.
SIZES = {
    physical.name: (physical.num_rows, physical.dim)
    for logical in example_tables()
    if logical.name != "tiny"
    for physical in build_scheme(logical).physical_tables
}
TABLES = list(SIZES)
REFERENCE = {
    "sgd": lambda p: torch.optim.SGD(p, lr=LR),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=LR, eps=EPS),
    "rowwise_adagrad": lambda p: RowWiseAdagrad(p, lr=LR, eps=EPS),
}
CASES = [
    *[(name, how) for name in ("sgd", "adagrad") for how in (None, "table_wise", "row_wise")],
    ("sgd", "column_wise"),
    ("sgd", "mixed"),
    ("adagrad", "column_wise"),
    ("rowwise_adagrad", "table_wise"),
    ("rowwise_adagrad", "row_wise"),
]


class Scorer(torch.nn.Module):
    """Reads pooled fields and sequences, so that both kinds of lookup get gradients."""

    def __init__(self, config):
        super().__init__()
        self.embedder = Embedder(example_tables(), config=config)
        self.weight_C = torch.nn.Parameter(
            torch.linspace(-1, 1, sum(self.embedder.widths.values()))
        )

    def forward(self, batch):
        embedded = self.embedder(batch)
        summed = [
            pool(history.values_LD.tanh(), history.lengths_B, how="sum")
            for history in embedded.sequences.values()
        ]
        logits = torch.cat([*embedded.fields.values(), *summed], 1).sin() @ self.weight_C
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels_BT[:, 0])


def share(batch, rank, world_size):
    """The rank's examples of a batch."""
    size = len(batch) // world_size
    rows = slice(rank * size, (rank + 1) * size)

    def cut(keyed):
        values, lengths = [], []
        for key in keyed.keys():  # noqa: SIM118  no dict
            examples = keyed[key].to_dense()[rows]
            values += examples
            lengths += [len(ids) for ids in examples]
        return KeyedJaggedTensor(
            keys=keyed.keys(), values=torch.cat(values), lengths=torch.tensor(lengths)
        )

    return Batch(
        ids=cut(batch.ids),
        sequences=cut(batch.sequences),
        dense_BN=batch.dense_BN[rows],
        labels_BT=batch.labels_BT[rows],
        weights_B=batch.weights_B[rows],
        users_B=batch.users_B[rows],
        targets_B=batch.targets_B,
        seen_values=batch.seen_values,
        seen_lengths_B=batch.seen_lengths_B,
    )


def table_name(parameter):
    """Of what a store has; a scheme's own state has none."""
    parts = parameter.split(".")
    return "" if "schemes" in parts else parts[-2]


def train_reference(optimizer):
    torch.manual_seed(0)
    model = Scorer(TablesConfig(dense_max_bytes=100))
    model.embedder.materialize()
    sharded = [p for n, p in model.named_parameters() if table_name("." + n) in TABLES]
    own = {id(p) for p in sharded}
    dense = [p for p in model.parameters() if id(p) not in own]
    optimizers = [REFERENCE[optimizer](sharded), torch.optim.SGD(dense, lr=LR)]
    losses = []
    for step in range(STEPS):
        loss = model(example_batch(seed=step))
        losses.append(loss.item())
        for each in optimizers:
            each.zero_grad()
        loss.backward()
        for each in optimizers:
            each.step()
    return losses, {n: p.detach() for n, p in model.state_dict().items()}


def train_sharded(rank, world_size, cases):
    return [_train_sharded(rank, world_size, *case) for case in cases]


def _train_sharded(rank, world_size, optimizer, how):
    config = TablesConfig(
        dense_max_bytes=100,
        optimizer=FusedOptimizer(name=optimizer, lr=LR, eps=EPS),
        sharding={name: _sharding(name, place, how) for place, name in enumerate(TABLES) if how},
    )
    model = shard(Scorer(config), device=torch.device("cpu"))
    losses = train_dense(model, rank, world_size)
    return losses, {name: whole(weight) for name, weight in model.state_dict().items()}


def _sharding(name, place, how):
    wanted = ("row_wise", "table_wise", "column_wise")[place % 3] if how == "mixed" else how
    num_rows, width = SIZES[name]
    return possible(wanted, num_rows=num_rows, width=width)


def possible(how, *, num_rows, width):
    """The wanted way to cut a table, or another where it is too small for two or four pieces."""
    if how == "column_wise" and width < 8:
        how = "row_wise"
    return "table_wise" if how == "row_wise" and num_rows < 10 else how


def train_dense(model, rank, world_size):
    """Mean losses of all ranks, of steps of which torch does what fbgemm's kernels do not."""
    fused = {id(p) for n, p in model.named_parameters() if "collection" in n}
    dense = torch.optim.SGD([p for p in model.parameters() if id(p) not in fused], lr=LR)
    losses = []
    for step in range(STEPS):
        loss = model(share(example_batch(seed=step), rank, world_size))
        dense.zero_grad()
        loss.backward()
        dense.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item() / world_size)
    return losses


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_sharded_equals_unsharded_step_by_step(world_size, tmp_path):
    results = run_processes(world_size, train_sharded, tmp_path, CASES)
    references = {name: train_reference(name) for name in REFERENCE}
    for (optimizer, how), (losses, weights) in zip(CASES, results, strict=True):
        reference_losses, reference_weights = references[optimizer]
        assert losses == pytest.approx(reference_losses, abs=1e-5), (optimizer, how)
        assert weights.keys() == reference_weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(
                torch.from_numpy(weight),
                reference_weights[name],
                atol=1e-5,
                rtol=0,
                msg=lambda text: f"{optimizer} {how} {name}: {text}",  # noqa: B023
            )
    # The steps did something: every table moved further than the tolerance.
    start = Scorer(TablesConfig(dense_max_bytes=10**9)).embedder.replicated.weights
    for name, weight in references["sgd"][1].items():
        if table_name("." + name) in TABLES:
            assert (weight - start[table_name("." + name)]).abs().max() > 5e-5


def refuse(rank, world_size):
    messages = []
    for name, sharding in (("adam", {}), ("rowwise_adagrad", {"user": "column_wise"})):
        config = TablesConfig(
            dense_max_bytes=100, optimizer=FusedOptimizer(name=name), sharding=sharding
        )
        try:
            shard(Scorer(config), device=torch.device("cpu"))
        except RunConfigError as error:
            messages.append(str(error))
    return messages


def test_optimisers_that_would_train_wrongly_are_refused(tmp_path):
    adam, column_wise = run_processes(1, refuse, tmp_path)
    assert "fbgemm has no Adam on a CPU, got 'adam'; allowed adagrad, rowwise_adagrad, sgd" in adam
    assert "column_wise changes row-wise Adagrad" in column_wise
