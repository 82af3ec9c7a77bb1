"""Sharded tables of 16 bits against a plain loop that rounds after every step."""

import pytest
import torch
from gloo import WORLD_SIZES, run_processes, whole
from tables.conftest import SPECS, WARM_UPS, example_batch, example_tables, reader, with_plan
from tables.test_sharding import EPS, LR, REFERENCE, STEPS, possible, table_name, train_dense

from features.errors import RunConfigError
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.fused import check_optimizer
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.plan import shard
from recsys.tables.pooling import pool

CASES = [
    *[(name, how) for name in ("sgd", "adagrad") for how in ("table_wise", "row_wise")],
    ("adagrad", "column_wise"),
    ("rowwise_adagrad", "table_wise"),
    ("rowwise_adagrad", "row_wise"),
]
KEPT_WHOLE = ["quantized", "quantized to 16", "deeplight", "masked", "pep", "autosrh", "cce"]
KEPT_WHOLE += ["optembed"]


def half_tables():
    """Pooled alone, as a sequence too, shared, in two roles, tiny; no scheme that needs 32 bits."""
    return [table for table in example_tables() if table.name not in ("cce", "fixed")]


class Scorer(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedder = Embedder(half_tables(), config=config)
        width = sum(self.embedder.widths.values())
        self.weight_C = torch.nn.Parameter(torch.linspace(-1, 1, width))

    def forward(self, batch):
        embedded = self.embedder(batch)
        histories = embedded.sequences.values()
        vectors = [*embedded.fields.values(), *(history.values_LD for history in histories)]
        assert {vector.dtype for vector in vectors} == {torch.float32}
        summed = [pool(h.values_LD.tanh(), h.lengths_B, how="sum") for h in histories]
        logits = torch.cat([*embedded.fields.values(), *summed], 1).sin() @ self.weight_C
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels_BT[:, 0])


def config(row_dtype, optimizer="adagrad", how=None):
    tables = Embedder(half_tables(), config=_sharded()).sharded_tables()
    sharding = {t.name: possible(how, num_rows=t.num_rows, width=t.dim) for t in tables if how}
    return _sharded(row_dtype, FusedOptimizer(name=optimizer, lr=LR, eps=EPS), sharding)


def _sharded(row_dtype="fp32", optimizer=None, sharding=None):
    return TablesConfig(
        dense_max_bytes=100,
        row_dtype=row_dtype,
        optimizer=optimizer or FusedOptimizer(),
        sharding=sharding or {},
    )


def rounded(parameter, before, *, optimizer):
    """What fbgemm's CPU kernels make of a step: all but row-wise Adagrad round the update too."""
    if optimizer == "rowwise_adagrad":
        return parameter.half().float()
    return (before - (before - parameter).half().float()).half().float()


def train_reference(optimizer, *, rounds=True):
    """Rows of 32 bits, brought to the nearest numbers of 16 after every step; all else of 32."""
    model = Scorer(config("fp32"))
    model.embedder.materialize()
    sharded = model.embedder.sharded_parameters()
    own = {id(p) for p in sharded}
    dense = [p for p in model.parameters() if id(p) not in own]
    optimizers = [REFERENCE[optimizer](sharded), torch.optim.SGD(dense, lr=LR)]
    losses = []
    for parameter in sharded if rounds else ():
        parameter.detach().copy_(parameter.detach().half())
    for step in range(STEPS):
        loss = model(example_batch(seed=step))
        losses.append(loss.item())
        before = [parameter.detach().clone() for parameter in sharded]
        for each in optimizers:
            each.zero_grad()
        loss.backward()
        for each in optimizers:
            each.step()
        for parameter, was in zip(sharded, before, strict=True) if rounds else ():
            weight = parameter.detach()
            weight.copy_(rounded(weight, was, optimizer=optimizer))
    return losses, {n: p.detach() for n, p in model.state_dict().items()}


def train_sharded(rank, world_size, cases):
    return [_train_sharded(rank, world_size, *case) for case in cases]


def _train_sharded(rank, world_size, optimizer, how):
    model = shard(Scorer(config("fp16", optimizer, how)), device=torch.device("cpu"))
    start = {n: whole(w) for n, w in model.state_dict().items() if "collection" in n}
    losses = train_dense(model, rank, world_size)
    end = {n: whole(w) for n, w in model.state_dict().items() if n in start}
    state = model.fused_optimizer.state_dict()["state"]
    bits = {t.local_shards()[0].tensor.dtype for of in state.values() for t in of.values()}
    return losses, start, end, bits


@pytest.mark.parametrize("world_size", WORLD_SIZES[1:])
def test_rows_of_16_bits_are_those_of_a_loop_that_rounds(world_size, tmp_path):
    results = run_processes(world_size, train_sharded, tmp_path, CASES)
    tables = {t.name: t for t in Embedder(half_tables(), config=_sharded()).sharded_tables()}
    for (optimizer, how), (losses, start, end, bits) in zip(CASES, results, strict=True):
        expected_losses, expected = train_reference(optimizer)
        _, not_rounded = train_reference(optimizer, rounds=False)
        assert losses == pytest.approx(expected_losses, abs=2e-4), (optimizer, how)
        assert bits <= {torch.float32}
        num_equal = num_of_others = num_numbers = 0
        for name, found in end.items():
            weight = torch.from_numpy(found)
            assert weight.dtype == torch.float16
            first = initial_rows(tables[table_name("." + name)], seed=0).half()
            assert torch.equal(torch.from_numpy(start[name]), first), name
            # Sums in another order may end on the other side of the middle of two numbers.
            torch.testing.assert_close(weight.float(), expected[name], atol=1e-4, rtol=2e-3)
            num_equal += int((weight == expected[name]).sum())
            num_of_others += int((weight == not_rounded[name].half()).sum())
            num_numbers += weight.numel()
        assert num_equal > 0.99 * num_numbers, (optimizer, how)
        # Rounding once, at the end, is another thing: the test tells them apart.
        assert num_of_others < num_equal, (optimizer, how)


@pytest.mark.parametrize("scheme", KEPT_WHOLE)
def test_schemes_that_work_on_their_rows_are_refused(scheme):
    table = with_plan(LogicalTable("t", 8, (SPECS | WARM_UPS)[scheme], (reader("f"),)))
    with pytest.raises(RunConfigError, match=r"works on its rows after a step and needs 32 bits"):
        Embedder([table], config=TablesConfig(dense_max_bytes=0, row_dtype="fp16"))
    # Replicated tables have 32 bits whatever the run says.
    Embedder([table], config=TablesConfig(dense_max_bytes=10**9, row_dtype="fp16"))


def test_bf16_is_refused_where_fbgemm_would_read_it_wrongly():
    bf16 = TablesConfig(row_dtype="bf16")
    with pytest.raises(RunConfigError) as raised:
        check_optimizer(bf16, device="cpu")
    assert list(raised.value.mistakes) == [
        "tables.row_dtype: fbgemm has no bf16 rows on a CPU, got 'bf16'; allowed fp32, fp16; "
        "choose one"
    ]
    check_optimizer(bf16, device="cuda")


def test_what_training_holds_counts_the_bits_of_rows():
    sizes = {
        dtype: Embedder(half_tables(), config=TablesConfig(dense_max_bytes=100, row_dtype=dtype))
        for dtype in ("fp32", "fp16")
    }
    sharded = sum(t.num_rows * t.dim for t in sizes["fp32"].sharded_tables())
    held = {dtype: embedder.num_training_bytes for dtype, embedder in sizes.items()}
    assert held["fp32"] - held["fp16"] == 2 * sharded
    assert sizes["fp32"].num_bytes == sizes["fp16"].num_bytes
