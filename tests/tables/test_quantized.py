"""Tables in low precision: on the grid, right on average, the same on any number of ranks."""

import numpy as np
import pytest
import torch
from gloo import WORLD_SIZES, run_processes, whole
from safetensors.torch import save_file
from tables.conftest import reader
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import RunConfigError
from features.table_spec import FullTable, QuantizedTable
from recsys.tables.after_steps import after_steps
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.grid import Grid
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.packing import packed, unpack_into
from recsys.tables.plan import shard
from recsys.tables.rounding import LEARNING_RATE, Rounding, step_gradients
from recsys.tables.scheme import Part, PhysicalTable
from recsys.types import Batch

KINDS = [("learned", 8), ("learned", 16), ("fixed", 8), ("fixed", 16)]
NUM_IDS = 60


def quantized(step="learned", bits=8, *, dim=8, num_ids=NUM_IDS, name="t", step_size=0.01):
    spec = QuantizedTable(scheme="quantized", step=step, bits=bits, step_size=step_size)
    readers = (reader(f"{name}_one", num_ids=num_ids), reader(f"{name}_many", 1, many=True))
    return LogicalTable(name, dim, spec, readers[:1] if name == "t" else readers)


def whole_part(grid, num_rows=1, *, values=None):
    """A table in one part, and the part's rounding."""
    table = PhysicalTable("t", num_rows, grid.row_width, grid=grid)
    rows = initial_rows(table, seed=0)
    if values is not None:
        rows[:, : grid.width] = torch.as_tensor(values)
    part = Part(table, rows, 0, 0)
    return part, Rounding(part, grid=grid, seed=0)


def assert_on_grid(rows, grid):
    steps = grid.steps(rows)
    codes = (rows[:, : grid.width] / steps).round()
    info = torch.iinfo(grid.dtype)
    assert torch.equal(codes * steps, rows[:, : grid.width])
    assert codes.min() >= info.min
    assert codes.max() <= info.max
    assert (steps > 0).all()


# -------------------------------------------------------------------------------------- rounding
@pytest.mark.parametrize(("step", "bits"), KINDS)
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_values_lie_on_the_grid_at_the_start_and_after_every_step(step, bits, optimizer):
    embedder = Embedder([quantized(step, bits)], config=TablesConfig())
    weight = embedder.replicated.weights["t"]
    grid = embedder.replicated_tables()[0].grid
    assert_on_grid(weight.detach(), grid)
    first = weight.detach().clone()
    [after_step] = after_steps(embedder)
    assert torch.equal(weight, first)
    options = {"weight_decay": 0.1} if optimizer is torch.optim.AdamW else {}
    trained = optimizer([weight], lr=0.3, **options)
    for number in range(20):
        drawn = torch.Generator().manual_seed(number)
        values = embedder.replicated.weights["t"][torch.randint(0, 30, (9,), generator=drawn)]
        trained.zero_grad()
        (values[:, :8] - torch.randn(9, 8, generator=drawn)).pow(2).sum().backward()
        trained.step()
        after_step(number)
        assert_on_grid(weight.detach(), grid)
    assert (weight[:30, :8] != first[:30, :8]).any(1).all()
    if optimizer is torch.optim.SGD:
        assert torch.equal(weight[30:], first[30:])
    assert (grid.steps(weight) != 0.01).any() == (step == "learned")


def test_values_beyond_the_range_are_clipped():
    part, rounding = whole_part(Grid(4, 8, 0.01, is_learned=False))
    part.values[:] = torch.tensor([9.0, -9.0, 1.27, -1.28])
    rounding(0)
    torch.testing.assert_close(part.values, torch.tensor([[1.27, -1.28, 1.27, -1.28]]))


def test_draws_are_right_on_average_and_neighbours_of_the_value():
    grid = Grid(1, 16, 0.01, is_learned=False)
    values = torch.tensor([0.0131, -0.0131, 0.0002, 300.0071, 0.05]).expand(200_000, 5)
    counters = torch.arange(values.numel()).view(values.shape)
    codes = grid.draw(values, torch.tensor([[0.01]]), counters)
    exact = values[0].double() / torch.tensor(0.01).double()
    assert ((codes[:, :4] == exact[:4].floor()) | (codes[:, :4] == exact[:4].floor() + 1)).all()
    assert (codes[:, 4] == 5).all()
    # 0.5 / sqrt(200_000) is the largest standard error
    torch.testing.assert_close(codes.double().mean(0), exact, atol=0.005, rtol=0)


def test_updates_below_half_a_step_move_values_on_average_where_nearest_rounding_stays():
    part, rounding = whole_part(Grid(64, 8, 0.01, is_learned=False), 50, values=0.0)
    stuck = part.values.clone()
    for step in range(200):
        part.values.sub_(0.0005)
        rounding(step)
        stuck = ((stuck - 0.0005) / 0.01).round() * 0.01
    assert not stuck.any()
    assert part.values.mean().item() == pytest.approx(-0.1, abs=0.002)


def test_what_is_not_moved_stays_even_at_large_codes():
    """0.01 times a code is a rounded product: divided again, it may fall below the code."""
    grid = Grid(512, 16, 0.01, is_learned=False)
    codes = torch.arange(32_767 - 512, 32_767)
    part, rounding = whole_part(grid, values=codes * 0.01)
    before = part.values.clone()
    for step in range(50):
        part.values[0, 0] -= 0.004
        rounding(step)
    assert torch.equal(part.values[0, 1:], before[0, 1:])
    assert part.values[0, 0] < before[0, 0]


def test_values_that_are_not_on_the_grid_are_brought_to_it_before_the_first_step():
    grid = Grid(4, 8, 0.02, is_learned=False)
    part, _ = whole_part(grid, 3, values=torch.tensor([0.031, 0.029, -0.011, 7.0]))
    expected = torch.tensor([0.04, 0.02, -0.02, 2.54]).expand(3, 4)
    torch.testing.assert_close(part.values, expected)


# ----------------------------------------------------------------------------------------- steps
def test_gradients_of_steps_by_hand():
    grid = Grid(4, 8, 0.5, is_learned=True)
    values = torch.tensor([[0.6, -0.4, 70.0, -70.0], [0.5, 1.0, 0.0, 1.7]])
    moves = torch.tensor([[0.1, 0.2, 3.0, -4.0], [0.0, 0.0, 0.0, -0.3]])
    # w / s: 1.2 -> 1, -0.8 -> -1, then both ends; 3.4 -> 3 in the other row.
    one = -(0.1 * -0.2 + 0.2 * -0.2 + 3.0 * 127 + -4.0 * -128)
    other = -(-0.3 * -0.4)
    found = step_gradients(moves, values, torch.full((2, 1), 0.5), grid=grid)
    torch.testing.assert_close(found, torch.tensor([[one], [other]]))


def test_gradients_of_steps_are_those_of_a_straight_through_quantiser():
    """By autograd: rounding passes gradients, and with SGD moves are gradients times the rate."""
    grid = Grid(16, 8, 0.01, is_learned=True)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 16, generator=generator)
    of_values = torch.randn(5, 16, generator=generator)
    steps = (torch.rand(5, 1, generator=generator) * 0.02 + 0.005).requires_grad_()
    scaled = (values / steps).clamp(-128, 127)
    rounded = scaled + (scaled.round() - scaled).detach()
    (rounded * steps * of_values).sum().backward()
    found = step_gradients(-0.1 * of_values, values, steps.detach(), grid=grid)
    torch.testing.assert_close(found, 0.1 * steps.grad, atol=1e-4, rtol=1e-4)


def test_steps_follow_adagrad_in_the_rows_that_moved():
    part, rounding = whole_part(Grid(2, 8, 0.5, is_learned=True), 3, values=[1.0, -1.5])
    squares, step = 0.0, 0.5
    for number, moves in enumerate(([0.1, 0.3], [-0.6, 0.2])):
        before = part.values[1, :2].tolist()
        part.values[1, :2] += torch.tensor(moves)
        after = part.values[1, :2].tolist()
        rounding(number)
        gradient = sum(
            (b - a) * (round(a / step) - a / step) for a, b in zip(after, before, strict=True)
        )
        squares += gradient**2
        step -= LEARNING_RATE * gradient / squares**0.5
        assert part.values[1, 2].item() == pytest.approx(step, abs=1e-7)
        assert step != 0.5
    untouched = torch.tensor([1.0, -1.5, 0.5, 0.0])
    assert torch.equal(part.values[[0, 2]], untouched.expand(2, 4))


# ----------------------------------------------------------------------------------------- bytes
@pytest.mark.parametrize(("step", "bits"), KINDS)
def test_what_a_bundle_stores_is_small_and_gives_the_same_values(step, bits, tmp_path):
    config = TablesConfig(dense_max_bytes=10**9)
    sizes = {}
    for table in (
        quantized(step, bits, dim=64, num_ids=3000),
        LogicalTable("t", 64, FullTable(), (reader("t_one", num_ids=3000),)),
    ):
        embedder = Embedder([table], config=config)
        stored = packed(embedder)
        save_file(stored, tmp_path / "tables")
        sizes[table.spec.scheme] = (tmp_path / "tables").stat().st_size
        assert sum(t.numel() * t.itemsize for t in stored.values()) == embedder.num_bytes
        other = Embedder([table], config=TablesConfig(dense_max_bytes=10**9, seed=1))
        unpack_into(other, stored)
        assert torch.equal(other.replicated.weights["t"], embedder.replicated.weights["t"])
    steps = 1 / 64 if step == "learned" else 0
    assert sizes["quantized"] / sizes["full"] == pytest.approx(bits / 32 + steps, rel=0.01)


# -------------------------------------------------------------------------------------- sharding
TABLES = [quantized("learned", name="own"), quantized("fixed", 16, name="one")]
LR, STEPS = 2.0**-6, 6
CASES = [
    ("sgd", {}),
    ("sgd", {"own": "table_wise", "one": "table_wise"}),
    ("sgd", {"own": "row_wise", "one": "row_wise"}),
    ("sgd", {"own": "row_wise", "one": "column_wise"}),
    ("replicated", {}),
]


def batch(step, rank=0, world_size=1):
    """The rank's examples of 8: one id each, and two."""
    drawn = torch.Generator().manual_seed(step)
    ids = torch.randint(0, NUM_IDS, (2, 2, 8, 2), generator=drawn)
    ids = ids[:, :, rank * 8 // world_size : (rank + 1) * 8 // world_size]
    num = ids.shape[2]
    values = [part for table in ids for part in (table[0, :, 0], table[1].flatten())]
    lengths = [torch.full((num,), 1 + place % 2) for place in range(4)]
    keys = [f"{name}_{which}" for name in ("own", "one") for which in ("one", "many")]
    nothing = torch.zeros(0)
    keyed = KeyedJaggedTensor(keys=keys, values=torch.cat(values), lengths=torch.cat(lengths))
    weights_B = torch.ones(keyed.stride())
    return Batch(keyed, None, nothing, nothing, weights_B, *[nothing.long()] * 4)


class Model(torch.nn.Module):
    """A loss whose gradients are exact in any order of sums, so that no draw can turn out else."""

    def __init__(self, config):
        super().__init__()
        self.embedder = Embedder(TABLES, config=config)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, batch, step):
        fields = self.embedder(batch).fields
        weights = torch.arange(8) % (2 + step % 3) - 0.5
        signs = {"own_one": 1, "own_many": -2, "one_one": -4, "one_many": 1}
        of_examples = sum((fields[k] * weights).sum(1) * sign for k, sign in signs.items())
        # self.scale is a part of it, but without a gradient for the values to depend on
        return of_examples.sum() / 8 + 0 * self.scale


def train(rank, world_size, cases):
    return [_train(rank, world_size, *case) for case in cases]


def _train(rank, world_size, how, sharding):
    config = TablesConfig(
        dense_max_bytes=10**9 if how == "replicated" else 0,
        optimizer=FusedOptimizer(name="sgd", lr=LR),
        sharding=sharding,
    )
    model = shard(Model(config), device=torch.device("cpu"))
    module = next(m for m in model.modules() if isinstance(m, Model))
    trained = [*module.embedder.replicated.parameters(), module.scale]
    return _steps(
        model, module, trained, lambda step: batch(step, rank, world_size), world_size=world_size
    )


def _steps(model, module, trained, batch_of, *, world_size=1):
    optimizer = torch.optim.SGD(trained, lr=LR)
    hooks = after_steps(module.embedder)
    found = []
    for step in range(STEPS):
        loss = model(batch_of(step), step) * world_size  # ranks' gradients are averaged
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for hook in hooks:
            hook(step)
        tables = module.embedder.state_dict().items()
        found.append({n.split(".")[-2:][n.startswith("rep")]: whole(t) for n, t in tables})
    return found


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_sharded_equals_unsharded_step_by_step(world_size, tmp_path):
    model = Model(TablesConfig(dense_max_bytes=0))
    model.embedder.materialize()
    reference = _steps(model, model, list(model.parameters()), batch)
    for case, steps in zip(CASES, run_processes(world_size, train, tmp_path, CASES), strict=True):
        for found, expected in zip(steps, reference, strict=True):
            assert found.keys() == expected.keys() == {"own", "one"}
            for name in found:
                np.testing.assert_allclose(
                    found[name], expected[name], atol=1e-7, rtol=1e-5, err_msg=f"{case} {name}"
                )
    grids = {t.name: t.grid for t in model.embedder.sharded_tables()}
    for name, rows in reference[-1].items():
        assert_on_grid(torch.from_numpy(rows), grids[name])
        assert (rows != reference[0][name]).mean() > 0.1
    assert len(set(reference[-1]["own"][:, 8])) > 10


def test_columns_are_not_parted_from_learned_steps():
    config = TablesConfig(dense_max_bytes=0, sharding={"own": "column_wise", "one": "column_wise"})
    with pytest.raises(RunConfigError) as raised:
        Embedder(TABLES, config=config)
    [message] = raised.value.mistakes
    assert message.startswith("tables.sharding.own: column_wise would part rows from their learned")
