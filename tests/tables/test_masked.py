"""Tables with masks, and the first trainings that find them."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from gloo import WORLD_SIZES, run_processes, whole
from tables.conftest import reader
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import FeatureConfigError, RunConfigError
from features.table_plan import TablePlan, read_plan, write_plan
from features.table_spec import AutoSrhTable, MaskedTable, PepTable
from recsys.tables.after_steps import after_steps
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.packing import packed, unpack_into
from recsys.tables.plan import shard
from recsys.tables.schemes import build_scheme
from recsys.types import Batch

# Rows 0 ... 29 of `a`, and 30 ... 49 of `b`.
NUM_A, NUM_B, NUM_IDS, DIM = 30, 20, 50, 8
# 50 counts and 70 pairs of 5 bytes, of 400 numbers.
BUDGET, NUM_KEPT = 50 + 70 * 5, 70
MASKED = MaskedTable(scheme="masked", plan="t.plan.safetensors")


def logical(spec, plan=None):
    readers = (
        reader("a", num_ids=NUM_A),
        reader("b", 1, num_ids=NUM_B),
        reader("many", 2, namespace="b", num_ids=NUM_B, pooling="sum", many=True),
    )
    return LogicalTable("t", DIM, spec, readers, plan)


def pep(**options):
    return logical(PepTable(scheme="pep", **{"budget": BUDGET} | options))


def autosrh(**options):
    return logical(AutoSrhTable(scheme="autosrh", **{"budget": BUDGET} | options))


def whole_rows(scheme, seed=0):
    [physical] = scheme.physical_tables
    return initial_rows(physical, seed=seed)


def kept(plan):
    """By a loop."""
    columns, is_kept = iter(plan.kept["columns"].tolist()), torch.zeros(NUM_IDS, DIM).bool()
    for row, count in enumerate(plan.kept["counts"].tolist()):
        for _ in range(count):
            is_kept[row, next(columns)] = True
    assert next(columns, None) is None
    return is_kept


def random_plan():
    """Rows without a number, rows with all, and others."""
    is_kept = torch.rand(NUM_IDS, DIM, generator=torch.Generator().manual_seed(0)) < 0.2
    is_kept[0], is_kept[1] = False, True
    columns = is_kept.nonzero()[:, 1].numpy().astype("uint8")
    counts = is_kept.sum(1).numpy().astype("uint8")
    values = whole_rows(build_scheme(pep()))[is_kept].numpy()
    return TablePlan("masked", {"columns": columns, "counts": counts}, {"t": values}), is_kept


# ----------------------------------------------------------------------------------------- masked
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_masked_numbers_are_zero_after_every_step_and_others_are_trained(optimizer):
    plan, is_kept = random_plan()
    embedder = Embedder([logical(MASKED, plan)], config=TablesConfig())
    weight = embedder.replicated.weights["t"]
    first = torch.where(is_kept, whole_rows(build_scheme(pep())), 0)
    assert torch.equal(weight, first)
    [mask] = after_steps(embedder)
    trained = optimizer([weight], lr=0.1)
    for step in range(3):
        trained.zero_grad()
        (embedder.replicated.weights["t"] - 1).square().sum().backward()
        trained.step()
        assert weight[~is_kept].all()
        mask(step)
        assert not weight[~is_kept].any()
        assert (weight != first)[is_kept].all()


def test_a_table_without_first_values_is_masked_before_the_first_step():
    plan, is_kept = random_plan()
    table = logical(MASKED, plan.without_first_values())
    embedder = Embedder([table], config=TablesConfig())
    after_steps(embedder)
    assert torch.equal(embedder.replicated.weights["t"] != 0, is_kept)


def test_a_bundle_stores_values_beside_the_plan(tmp_path):
    plan, is_kept = random_plan()
    write_plan(plan.without_first_values(), tmp_path / "plan")
    embedder = Embedder([logical(MASKED, plan)], config=TablesConfig())
    stored = packed(embedder)
    in_plan = sum(array.nbytes for array in read_plan(tmp_path / "plan").kept.values())
    in_tables = sum(tensor.numel() * tensor.itemsize for tensor in stored.values())
    num_kept = int(is_kept.sum())
    assert (in_plan, in_tables) == (NUM_IDS + num_kept, 4 * num_kept)
    assert embedder.num_bytes == in_plan + in_tables
    other = logical(MASKED, read_plan(tmp_path / "plan"))
    other = Embedder([other], config=TablesConfig(seed=1))
    unpack_into(other, stored)
    assert torch.equal(other.replicated.weights["t"], embedder.replicated.weights["t"])


def test_another_plan_is_another_meaning_of_rows():
    plan, _ = random_plan()
    counts = plan.kept["counts"].copy()
    counts[:2] = counts[1::-1]
    other = replace(plan, kept={**plan.kept, "counts": counts})
    meanings = [build_scheme(logical(MASKED, p)).row_meaning() for p in (plan, other)]
    assert meanings[0] != meanings[1]


# -------------------------------------------------------------------------------------------- pep
PER = {"table": (1, 1), "feature": (2, 1), "dimension": (1, DIM), "feature_and_dimension": (2, DIM)}


@pytest.mark.parametrize("per", PER)
def test_shrunk_numbers_and_their_gradients_by_hand(per):
    scheme = build_scheme(pep(per=per)).double()
    assert scheme.logits_FD.shape == PER[per]
    rng = np.random.default_rng(0)
    logits = np.broadcast_to(rng.normal(size=PER[per]), (2, DIM))
    scheme.logits_FD.data = torch.from_numpy(logits[: PER[per][0], : PER[per][1]].copy())
    values = {key: rng.normal(size=(5, DIM)) for key in ("a", "b", "many")}
    tensors = {key: torch.from_numpy(v).requires_grad_() for key, v in values.items()}
    weights = {key: rng.normal(size=(5, DIM)) for key in values}
    ids = dict.fromkeys(values, torch.arange(5))
    vectors = scheme.combine(tensors, ids)
    sum((vectors[k] * torch.from_numpy(weights[k])).sum() for k in values).backward()
    of_logits = np.zeros((2, DIM))
    for place, key in ((0, "a"), (1, "b"), (1, "many")):
        limit = 1 / (1 + np.exp(-logits[place]))
        is_left = np.abs(values[key]) > limit
        expected = np.sign(values[key]) * (np.abs(values[key]) - limit) * is_left
        np.testing.assert_allclose(vectors[key].detach(), expected)
        np.testing.assert_allclose(tensors[key].grad, weights[key] * is_left)
        slope = -np.sign(values[key]) * is_left * weights[key]
        of_logits[place] += slope.sum(0) * limit * (1 - limit)
    axes = tuple(axis for axis, size in enumerate(PER[per]) if size == 1)
    np.testing.assert_allclose(
        scheme.logits_FD.grad, of_logits.sum(axes, keepdims=True), atol=1e-12
    )


def test_nothing_is_pruned_at_first_and_decay_draws_thresholds_up():
    scheme = build_scheme(pep(decay=0.5))
    rows = whole_rows(scheme)
    vectors = scheme.combine({"a": rows, "b": rows, "many": rows}, {})
    torch.testing.assert_close(vectors["a"], rows, atol=1e-6, rtol=0)
    assert scheme.penalty().item() == pytest.approx(0.5 * 16 * 15**2 / 2)
    scheme.penalty().backward()
    torch.testing.assert_close(scheme.logits_FD.grad, torch.full((2, DIM), -7.5))


def test_a_warm_up_is_finished_when_the_budget_is_met_and_keeps_what_is_left(caplog):
    scheme = build_scheme(pep(per="feature"), seed=3)
    embedder = Embedder([pep(per="feature")], config=TablesConfig(seed=3))
    rows = embedder.replicated.weights["t"]
    [look] = after_steps(embedder)
    scheme = embedder.schemes["t"]
    limits = torch.tensor([0.0445, 0.04])[:, None]
    scheme.logits_FD.data = limits.logit()
    of_rows = limits.repeat_interleave(torch.tensor([NUM_A, NUM_B]), dim=0)
    is_left = rows.abs() > of_rows
    assert 40 < is_left.sum() <= NUM_KEPT
    look(3)
    assert not scheme.is_finished
    look(9)
    assert scheme.is_finished
    plan = scheme.plan({"t": rows.detach() * 1.0})
    assert torch.equal(kept(plan), is_left)
    assert not caplog.records
    values = whole_rows(scheme, seed=3)[is_left]
    np.testing.assert_array_equal(plan.first_values["t"], values)
    # Thresholds that are too low: the largest are kept, and somebody is told.
    scheme.logits_FD.data -= 1
    look(19)
    assert not scheme.is_finished
    with caplog.at_level(logging.WARNING):
        plan = scheme.plan({"t": rows.detach()})
    shrunk = (
        rows.abs() - scheme.logits_FD.sigmoid().repeat_interleave(torch.tensor([NUM_A, NUM_B]), 0)
    ).flatten()
    largest = np.argsort(-shrunk.detach().numpy())[:NUM_KEPT]
    assert sorted(kept(plan).flatten().nonzero()[:, 0].tolist()) == sorted(largest)
    assert "tables.t: thresholds leave" in caplog.text
    assert "the budget stores 70: the largest are kept" in caplog.text
    retrained = build_scheme(logical(MASKED, plan))
    assert retrained.num_bytes == BUDGET


# ---------------------------------------------------------------------------------------- autosrh
def test_factors_belong_to_ranges_of_ids():
    scheme = build_scheme(autosrh(num_groups=4))
    scheme.factors_GD.data = torch.rand(8, DIM)
    ids = {"a": torch.arange(30), "b": torch.arange(20), "many": torch.tensor([19, 0, 5])}
    vectors = scheme.combine({k: torch.ones(len(v), DIM) for k, v in ids.items()}, ids)
    for key, num_ids, first in (("a", 30, 0), ("b", 20, 4), ("many", 20, 4)):
        groups = [first + min(i * 4 // num_ids, 3) for i in ids[key].tolist()]
        assert torch.equal(vectors[key], scheme.factors_GD[groups])
    sizes = np.bincount([i * 4 // 30 for i in range(30)])
    assert sizes.tolist() == [8, 7, 8, 7]


def test_factors_move_by_one_length_within_0_and_1():
    embedder = Embedder([autosrh(lr=2.0, l1=0.01)], config=TablesConfig())
    scheme = embedder.schemes["t"]
    assert embedder.updated_by_schemes() == [scheme.factors_GD]
    [move] = after_steps(embedder)
    factors = scheme.factors_GD.detach().clone().numpy()
    assert (factors == 0.5).all()
    rng = np.random.default_rng(0)
    for step in range(4):
        slopes = rng.normal(size=factors.shape).astype("float32")
        (embedder.penalty() + (scheme.factors_GD * torch.from_numpy(slopes)).sum()).backward()
        move(step)
        assert scheme.factors_GD.grad is None
        gradient = slopes + 0.01
        factors = np.clip(factors - 2 * gradient / np.sqrt((gradient**2).sum()), 0, 1)
        np.testing.assert_allclose(scheme.factors_GD.detach(), factors, atol=1e-6)
    assert (factors == 1).any()
    assert (factors < 1).any()


def test_dimensions_of_groups_are_kept_from_the_largest_factor_on():
    scheme = build_scheme(autosrh(num_groups=2), seed=5)
    # Groups of 15, 15, 10 and 10 ids; 70 numbers have room.
    factors = torch.zeros(4, DIM)
    factors[0, 2], factors[2, 0], factors[1, 7], factors[3, 3] = 0.9, 0.8, 0.7, 0.6
    factors[0, 0], factors[1, 1], factors[2, 5] = 0.5, 0.4, 0.3
    scheme.factors_GD.data = factors
    plan = scheme.plan({"t": whole_rows(scheme)})
    expected = torch.zeros(NUM_IDS, DIM).bool()
    expected[:15, [2, 0]] = True  # 15 + 10 + 15 + 10 + 15 = 65; 15 or 10 more do not fit
    expected[15:30, 7] = True
    expected[30:40, 0] = True
    expected[40:, 3] = True
    assert torch.equal(kept(plan), expected)
    # Half of what the rows before the factors start with.
    first = whole_rows(scheme, seed=5)[expected] / 2
    np.testing.assert_allclose(plan.first_values["t"], first, rtol=1e-6)
    factors[factors < 0.85] = 0
    scheme.factors_GD.data = factors
    assert kept(scheme.plan({})).sum() == 15


def test_groups_that_do_not_fit_leave_their_room_to_smaller_ones():
    # Groups of 30 and 20 ids.
    scheme = build_scheme(autosrh(num_groups=1, budget=50 + 25 * 5))
    scheme.factors_GD.data = torch.rand(2, DIM) / 2
    scheme.factors_GD.data[0, 3], scheme.factors_GD.data[1, 6] = 0.9, 0.8
    expected = torch.zeros(NUM_IDS, DIM).bool()
    expected[30:, 6] = True
    assert torch.equal(kept(scheme.plan({})), expected)
    scheme.factors_GD.data[1] = 0
    with pytest.raises(RunConfigError, match=r"tables.t: nothing would be kept"):
        scheme.plan({})


@pytest.mark.parametrize(("table", "least"), [(pep, 1), (autosrh, 3)])
def test_budgets_that_hold_all_or_nothing_are_refused(table, least):
    with pytest.raises(FeatureConfigError, match=r"holds the whole table, .* to 1599 bytes"):
        build_scheme(table(budget=1600))
    least_bytes = 50 + 5 * least
    found = f"got {least_bytes - 1}; allowed {least_bytes} bytes and up"
    with pytest.raises(FeatureConfigError, match=found):
        build_scheme(table(budget=least_bytes - 1))


def test_thresholds_that_meet_the_budget_before_any_training_are_refused():
    # .05 (1 - 70 / 400) is the logistic function of -3.146.
    build_scheme(pep(start=-3.16))
    with pytest.raises(FeatureConfigError, match=r"t.start: .* got -3.14; allowed below -3.15"):
        build_scheme(pep(start=-3.14))


# --------------------------------------------------------------------------------------- sharding
STEPS, LR = 10, 2.0**-5
TABLES = {
    "masked": lambda: logical(MASKED, random_plan()[0]),
    "pep": lambda: pep(start=-3.4, decay=0.5),
    "autosrh": lambda: autosrh(lr=0.1),
}
CASES = [(name, how) for name in TABLES for how in ("table_wise", "row_wise", "column_wise", None)]


class Model(torch.nn.Module):
    def __init__(self, table, config):
        super().__init__()
        self.embedder = Embedder([table], config=config)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, batch):
        fields = torch.cat(list(self.embedder(batch).fields.values()), 1)
        weights = torch.linspace(-1, 1, 3 * DIM)
        loss = (self.scale * (fields.mul(20).sin() * weights).sum(1)).mean()
        penalty = self.embedder.penalty()
        return loss if penalty is None else loss + penalty


def batch(step, rank=0, world_size=1):
    drawn = torch.randint(0, NUM_B, (4, 8), generator=torch.Generator().manual_seed(step))
    drawn = drawn[:, rank * 8 // world_size : (rank + 1) * 8 // world_size]
    num = drawn.shape[1]
    keyed = KeyedJaggedTensor(
        keys=["a", "b", "many"],
        values=torch.cat([drawn[0] + 5, drawn[1], drawn[2:].T.flatten()]),
        lengths=torch.tensor([1] * 2 * num + [2] * num),
    )
    nothing = torch.zeros(0)
    weights_B = torch.ones(keyed.stride())
    return Batch(keyed, None, nothing, nothing, weights_B, *[nothing.long()] * 4)


def train(rank, world_size, cases):
    return [_train(rank, world_size, *case) for case in cases]


def _train(rank, world_size, name, how):
    config = TablesConfig(
        dense_max_bytes=10**9 if how is None else 0,
        optimizer=FusedOptimizer(name="sgd", lr=LR),
        sharding={} if how is None else {"t": how},
    )
    model = shard(Model(TABLES[name](), config), device=torch.device("cpu"))
    module = next(m for m in model.modules() if isinstance(m, Model))
    own = [*module.embedder.replicated.parameters(), *module.embedder.schemes.parameters()]
    return _steps(model, module, own, lambda step: batch(step, rank, world_size))


def _steps(model, module, own, batch_of):
    by_schemes = {id(p) for p in module.embedder.updated_by_schemes()}
    trained = [p for p in [*own, module.scale] if id(p) not in by_schemes]
    optimizer, hooks = torch.optim.SGD(trained, lr=LR), after_steps(module.embedder)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(batch_of(step)).backward()
        optimizer.step()
        for hook in hooks:
            hook(step)
    found = {
        n.split(".")[-2 if n.endswith(".weight") else -1]: whole(w)
        for n, w in module.embedder.state_dict().items()
    }
    scheme = module.embedder.schemes["t"]
    if hasattr(scheme, "is_finished"):
        found["is_finished"] = np.float32(scheme.is_finished)
    return found


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_sharded_equals_unsharded(world_size, tmp_path):
    references, starts = {}, {}
    for name, table in TABLES.items():
        model = Model(table(), TablesConfig(dense_max_bytes=0))
        model.embedder.materialize()
        starts[name] = {
            n.split(".")[-1]: p.detach().clone()
            for n, p in model.embedder.schemes.named_parameters()
        }
        references[name] = _steps(model, model, list(model.embedder.parameters()), batch)
    for (name, how), found in zip(
        CASES, run_processes(world_size, train, tmp_path, CASES), strict=True
    ):
        assert found.keys() == references[name].keys()
        for key, value in found.items():
            np.testing.assert_allclose(
                value, references[name][key], atol=1e-5, err_msg=f"{name} {how} {key}"
            )
    is_kept = random_plan()[1].numpy()
    assert not references["masked"]["t"][~is_kept].any()
    assert references["pep"]["is_finished"] == 1
    for name, own in starts.items():
        for key, start in own.items():
            assert np.abs(references[name][key] - start.numpy()).max() > 1e-3
