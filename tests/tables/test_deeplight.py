"""Tables that are pruned while they are trained: how much, when, and what a bundle has of it."""

import math

import numpy as np
import pytest
import torch
from gloo import WORLD_SIZES, run_processes, whole
from tables.conftest import reader
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import CheckpointMismatchError, FeatureConfigError
from features.table_spec import DeepLightTable
from recsys.tables.after_steps import after_steps, before_views
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.packing import packed, unpack_into
from recsys.tables.plan import shard
from recsys.tables.schemes import build_scheme
from recsys.types import Batch

NUM_IDS, DIM = 60, 8
# 60 counts and 84 pairs of 5 bytes: 17.5% of 480 numbers.
BUDGET, NUM_KEPT = 60 + 84 * 5, 84


def deeplight(budget=BUDGET, *, damping_steps=100, dim=DIM, num_ids=NUM_IDS):
    spec = DeepLightTable(scheme="deeplight", budget=budget, damping_steps=damping_steps)
    sizes = {"namespace": "one", "num_ids": num_ids}
    readers = (reader("one", **sizes), reader("many", 1, many=True, **sizes))
    return LogicalTable("t", dim, spec, readers)


# ------------------------------------------------------------------------------------------ rates
@pytest.mark.parametrize(
    ("budget", "num_kept", "num_bytes"),
    [(480, 84, 480), (479, 83, 475), (65, 1, 65), (1919, 371, 1915), (1920, 480, 1920)],
)
def test_what_a_budget_keeps_by_hand(budget, num_kept, num_bytes):
    scheme = build_scheme(deeplight(budget))
    assert (scheme.num_kept, scheme.num_bytes) == (num_kept, num_bytes)


def test_rates_follow_the_papers_formula_until_they_are_within_a_thousandth():
    scheme = build_scheme(deeplight(damping_steps=7))
    for step in range(scheme.settled_after):
        expected = 396 * (1 - 0.99 ** (step / 7))
        assert scheme.num_pruned(step) == math.floor(expected)
        assert 396 - expected > 480 / 1000
    assert scheme.num_pruned(scheme.settled_after) == scheme.num_pruned(10**9) == 396
    assert 396 * 0.99 ** (scheme.settled_after / 7) <= 480 / 1000


def test_a_budget_that_holds_all_numbers_prunes_none():
    table = deeplight(1920)
    embedder = Embedder([table], config=TablesConfig())
    assert embedder.settled_after() == {}
    before_views(embedder)[0](10**6)
    assert packed(embedder)["replicated.weights.t"].count_nonzero() == 480
    with pytest.raises(FeatureConfigError, match="got 64; allowed 65 bytes and up"):
        build_scheme(deeplight(64))


# ---------------------------------------------------------------------------------------- pruning
def test_pruning_step_by_step_is_that_of_a_plain_loop():
    embedder = Embedder([deeplight(damping_steps=0.2)], config=TablesConfig())
    weight = embedder.replicated.weights["t"]
    [after_step], [before_view] = after_steps(embedder), before_views(embedder)
    expected = weight.detach().clone().numpy()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    rng = np.random.default_rng(0)
    came_back, was_zero = 0, expected == 0
    for step in range(150):
        moves = rng.normal(size=expected.shape).astype("float32") * 0.02
        weight.grad = torch.from_numpy(-moves)
        optimizer.step()
        after_step(step)
        expected = expected + moves
        if (step + 1) % 10 == 0:
            num_pruned = math.floor(396 * (1 - 0.99 ** ((step + 1) / 0.2)))
            num_pruned = 396 if step + 1 >= embedder.settled_after()["t"] else num_pruned
            smallest = np.argsort(np.abs(expected), axis=None)[:num_pruned]
            expected.flat[smallest] = 0
            assert weight.count_nonzero() == 480 - num_pruned
            came_back += (was_zero & (expected != 0)).sum()
            was_zero = expected == 0
        np.testing.assert_array_equal(weight.detach().numpy(), expected)
    assert came_back > 10
    weight.data += 0.001
    before_view(151)
    assert weight.count_nonzero() == NUM_KEPT


def test_a_bundle_has_the_numbers_that_are_left():
    table = deeplight()
    embedder = Embedder([table], config=TablesConfig())
    with pytest.raises(CheckpointMismatchError) as raised:
        packed(embedder)
    [message] = raised.value.mistakes
    assert message.startswith("tables.t: does not meet its budget yet, got 480 numbers other than")
    assert f"allowed 84, which training comes down to in {embedder.settled_after()['t']}" in message
    before_views(embedder)[0](10**6)
    stored = packed(embedder)
    assert sum(t.numel() * t.itemsize for t in stored.values()) == BUDGET == embedder.num_bytes
    other = Embedder([table], config=TablesConfig(seed=1))
    unpack_into(other, stored)
    assert torch.equal(other.replicated.weights["t"], embedder.replicated.weights["t"])


# --------------------------------------------------------------------------------------- sharding
STEPS, LR = 25, 2.0**-6
CASES = [{}, {"t": "table_wise"}, {"t": "row_wise"}, {"t": "column_wise"}, None]


class Model(torch.nn.Module):
    """A loss whose gradients are exact in any order of sums, so that no rank of magnitude flips."""

    def __init__(self, config):
        super().__init__()
        self.embedder = Embedder([deeplight(damping_steps=0.05)], config=config)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, batch, step):
        fields = self.embedder(batch).fields
        weights = torch.arange(DIM) % (2 + step % 3) - 0.5
        of_examples = ((fields["one"] - 2 * fields["many"]) * weights).sum(1)
        return of_examples.sum() / 8 + 0 * self.scale


def batch(step, rank=0, world_size=1):
    ids = torch.randint(0, NUM_IDS, (3, 8), generator=torch.Generator().manual_seed(step))
    ids = ids[:, rank * 8 // world_size : (rank + 1) * 8 // world_size]
    num = ids.shape[1]
    keyed = KeyedJaggedTensor(
        keys=["one", "many"],
        values=torch.cat([ids[0], ids[1:].T.flatten()]),
        lengths=torch.tensor([1] * num + [2] * num),
    )
    nothing = torch.zeros(0)
    weights_B = torch.ones(keyed.stride())
    return Batch(keyed, None, nothing, nothing, weights_B, *[nothing.long()] * 4)


def train(rank, world_size, cases):
    return [_train(rank, world_size, sharding) for sharding in cases]


def _train(rank, world_size, sharding):
    config = TablesConfig(
        dense_max_bytes=10**9 if sharding is None else 0,
        optimizer=FusedOptimizer(name="sgd", lr=LR),
        sharding=sharding or {},
    )
    model = shard(Model(config), device=torch.device("cpu"))
    module = next(m for m in model.modules() if isinstance(m, Model))
    trained = [*module.embedder.replicated.parameters(), module.scale]
    return _steps(model, module, trained, lambda step: batch(step, rank, world_size), world_size)


def _steps(model, module, trained, batch_of, world_size=1):
    optimizer = torch.optim.SGD(trained, lr=LR)
    [after_step], found = after_steps(module.embedder), []
    for step in range(STEPS):
        loss = model(batch_of(step), step) * world_size  # ranks' gradients are averaged
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after_step(step)
        [weight] = module.embedder.state_dict().values()
        found.append(whole(weight))
    return found


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_sharded_equals_unsharded_step_by_step(world_size, tmp_path):
    model = Model(TablesConfig(dense_max_bytes=0))
    model.embedder.materialize()
    reference = _steps(model, model, list(model.parameters()), batch)
    for case, steps in zip(CASES, run_processes(world_size, train, tmp_path, CASES), strict=True):
        for step, (found, expected) in enumerate(zip(steps, reference, strict=True)):
            np.testing.assert_array_equal(found == 0, expected == 0, err_msg=f"{case} {step}")
            np.testing.assert_allclose(found, expected, atol=1e-7, rtol=1e-5, err_msg=str(case))
    kept = [np.count_nonzero(rows) for rows in reference]
    assert kept[8] == 480
    assert NUM_KEPT < kept[9] < 300
    assert kept[9] <= kept[10] <= kept[18]
    start = initial_rows(model.embedder.sharded_tables()[0], seed=0).numpy()
    assert (reference[-1] != start)[reference[-1] != 0].any()
