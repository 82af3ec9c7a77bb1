"""What is planned against what TorchRec then allocates, and words for what does not fit."""

import pytest
import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from gloo import run_processes

from features.errors import RunConfigError
from features.table_spec import FullTable
from recsys.tables import plan
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.fused import attach_optimizer, check_optimizer, state_bytes
from recsys.tables.hardware import Hardware
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.overfull import too_large
from recsys.tables.placement import DENSE_COPIES, Placement, decide
from recsys.tables.planner import PlanSearch

GIB = 1 << 30
# Name, rows, width, whether it is read id by id.
TABLES = [("odd", 5003, 16, False), ("wide", 3001, 40, False), ("history", 7001, 24, True)]
HINTS = [
    {},
    dict.fromkeys(("odd", "wide", "history"), "row_wise"),
    {"odd": "column_wise", "wide": "table_wise", "history": "column_wise"},
]


def model(
    *, optimizer="adagrad", sharding=None, tables=TABLES, dense_max_bytes=0, row_dtype="fp32"
):
    logical = [
        LogicalTable(name, dim, FullTable(dim=dim), (_reader(name, place, rows, is_sequence),))
        for place, (name, rows, dim, is_sequence) in enumerate(tables)
    ]
    config = TablesConfig(
        dense_max_bytes=dense_max_bytes,
        optimizer=FusedOptimizer(name=optimizer),
        sharding=sharding or {},
        row_dtype=row_dtype,
    )
    module = torch.nn.Module()
    module.embedder = Embedder(logical, config=config)
    return module


def _reader(name, position, num_ids, is_sequence):
    return Reader(
        key=name,
        position=position,
        namespace=name,
        num_ids=num_ids,
        probes=1,
        pooling="none" if is_sequence else "mean",
        is_multi_valued=is_sequence,
        max_length=5 if is_sequence else 1,
    )


def on_cpu(world_size, *, num_bytes=64 * GIB, num_nodes=1):
    return Hardware(
        device="cpu",
        num_nodes=num_nodes,
        ranks_per_node=world_size // num_nodes,
        device_bytes=0,
        node_bytes=num_bytes,
    )


def on_gpus(num_nodes, gpus, *, num_bytes):
    return Hardware(
        device="cuda",
        num_nodes=num_nodes,
        ranks_per_node=gpus,
        device_bytes=num_bytes,
        node_bytes=64 * GIB,
    )


def planned(hardware, **options) -> Placement:
    module = model(**options)
    attach_optimizer(module.embedder, device=hardware.device)
    return decide(module, hardware=hardware, examples_per_rank=64)


# --------------------------------------------------------------------------- against the truth
def allocate(rank, world_size, cases):
    """Bytes that the kernels of each rank hold."""
    found = []
    for optimizer, hints, row_dtype in cases:
        sharded = plan.shard(
            model(optimizer=optimizer, sharding=hints, row_dtype=row_dtype),
            device=torch.device("cpu"),
            examples_per_rank=64,
        )
        lookups = [x for m in sharded.modules() for x in getattr(m, "_lookups", [])]
        parts = {id(part): part for lookup in lookups for part in lookup.modules()}.values()
        kernels = [p for p in parts if isinstance(p, SplitTableBatchedEmbeddingBagsCodegen)]
        held = sum(tensor.nbytes for kernel in kernels for tensor in _tensors(kernel))
        of_ranks = [0] * world_size
        dist.all_gather_object(of_ranks, held)
        found.append(of_ranks)
    return found


def _tensors(kernel):
    """All that a kernel keeps, lists of places included; weights are a parameter and a buffer."""
    by_address = {t.data_ptr(): t for t in (*kernel.parameters(), *kernel.buffers()) if t.numel()}
    return by_address.values()


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_bytes_of_weights_and_optimiser_are_those_that_are_allocated(world_size, tmp_path):
    cases = [(name, hints, "fp32") for name in ("sgd", "adagrad") for hints in HINTS]
    cases += [("rowwise_adagrad", hints, "fp32") for hints in HINTS[:2]]
    cases += [(name, HINTS[1], "fp16") for name in ("sgd", "adagrad", "rowwise_adagrad")]
    truth = run_processes(world_size, allocate, tmp_path, cases)
    for (optimizer, hints, row_dtype), of_ranks in zip(cases, truth, strict=True):
        settings = {"optimizer": optimizer, "sharding": hints, "row_dtype": row_dtype}
        placement = planned(on_cpu(world_size), **settings)
        said = [0] * world_size
        for table in placement.tables:
            for piece in table.pieces:
                said[piece.rank] += piece.weight_bytes + piece.state_bytes
        assert said == pytest.approx(of_ranks, rel=0.01), settings
        assert sum(said) > 700_000


@pytest.mark.parametrize(
    ("optimizer", "num_bytes"),
    [("sgd", 0), ("rowwise_adagrad", 400), ("adagrad", 6400), ("adam", 12800)],
)
def test_the_state_of_every_optimiser_counts(optimizer, num_bytes):
    state = state_bytes(FusedOptimizer(name=optimizer), num_rows=100, dim=16)
    assert state == num_bytes
    placement = planned(
        on_gpus(1, 1, num_bytes=GIB), optimizer=optimizer, tables=[("t", 100, 16, False)]
    )
    [piece] = placement.tables[0].pieces
    assert (piece.weight_bytes, piece.state_bytes) == (6400, num_bytes)
    # Ids and pooled vectors of 64 examples: what TorchRec's own count has beside the two.
    assert piece.buffer_bytes == 64 * 8 + 64 * 16 * 4
    for row_dtype in ("fp16", "bf16"):  # vectors and state have 32 bits
        placement = planned(
            on_gpus(1, 1, num_bytes=GIB),
            optimizer=optimizer,
            tables=[("t", 100, 16, False)],
            row_dtype=row_dtype,
        )
        [piece] = placement.tables[0].pieces
        assert (piece.weight_bytes, piece.state_bytes) == (3200, num_bytes)
        assert piece.buffer_bytes == 64 * 8 + 64 * 16 * 4


# ------------------------------------------------------------------------------------ decisions
def test_pieces_cover_each_table_once():
    placement = planned(on_gpus(2, 4, num_bytes=GIB))
    assert placement.fits
    for table, (name, rows, dim, _) in zip(placement.tables, TABLES, strict=True):
        assert (table.name, table.num_rows, table.dim) == (name, rows, dim)
        assert sum(piece.num_rows * piece.dim for piece in table.pieces) == rows * dim
    own = sum(p.num_bytes for t in placement.tables for p in t.pieces)
    assert sum(placement.rank_bytes()) == own + 8 * placement.replicated_bytes
    assert 0 < placement.step_ms() < 1


def test_memory_decides_where_a_table_lies():
    tables = [("large", 1_000_000, 64, False)]  # 256 MB, as much again for Adagrad
    roomy = planned(on_gpus(1, 4, num_bytes=GIB), tables=tables, sharding={"large": "table_wise"})
    assert roomy.fits
    tight = planned(on_gpus(1, 4, num_bytes=GIB // 4), tables=tables)
    assert tight.fits
    assert {len(table.pieces) for table in tight.tables} == {4}
    assert max(tight.rank_bytes()) <= tight.hardware.usable_bytes
    rest = planned(on_gpus(1, 4, num_bytes=GIB // 8), tables=tables)
    assert not rest.fits


def test_columns_are_cut_for_as_many_ranks():
    for world_size, widths in ((1, {40}), (2, {20}), (10, {4}), (4, {20})):
        hardware = on_cpu(world_size)
        placement = planned(hardware, tables=[TABLES[1]], sharding={"wide": "column_wise"})
        [table] = placement.tables
        assert table.is_hinted
        assert {piece.dim for piece in table.pieces} == widths
        assert len({piece.rank for piece in table.pieces}) == len(table.pieces)


def test_what_every_rank_has_a_copy_of_counts():
    tables = [("small", 1000, 8, False), ("large", 100_000, 8, False)]
    placement = planned(on_cpu(2), tables=tables, dense_max_bytes=100_000)
    assert placement.replicated_bytes == DENSE_COPIES * 1000 * 8 * 4
    assert [table.name for table in placement.tables] == ["large"]
    none = planned(on_cpu(2), tables=tables, dense_max_bytes=10**9)
    assert none.fits
    assert none.tables == ()
    assert none.rank_bytes() == [DENSE_COPIES * 101_000 * 8 * 4] * 2


# ---------------------------------------------------------------------------------------- words
def test_the_table_that_does_not_fit_is_named_with_what_it_lacks():
    tables = [("item", 1_000_000, 64, False), ("user", 1000, 64, False)]
    placement = planned(
        on_gpus(1, 1, num_bytes=400 << 20), tables=tables, sharding={"item": "table_wise"}
    )
    assert not placement.fits
    [message] = too_large(placement)
    # 512,000,000 bytes of item are 488 MiB; 85% of 400 MiB are 340.
    assert message.startswith("tables.item: does not fit, got 489 MiB in process 0, 488 MiB of it")
    assert "allowed 340 MiB of 400 MiB (15% is left to" in message
    assert message.endswith("149 MiB too much")


def test_a_model_that_is_too_large_by_itself_is_told_from_tables():
    tables = [("small", 1_000_000, 8, False)]
    placement = planned(on_gpus(1, 1, num_bytes=64 << 20), tables=tables, dense_max_bytes=10**9)
    [message] = too_large(placement)
    assert message.startswith("model: what every process has a copy of, layers and replicated")
    assert "got 122 MiB with gradients and optimiser; allowed 54.4 MiB" in message
    assert "lower tables.dense_max_bytes" in message


def test_hints_that_cannot_be_followed_are_explained_together():
    tables = [("one", 100, 4, False), ("two", 100, 20, False), ("three", 100, 8, False)]
    hints = dict.fromkeys(("one", "two", "three"), "column_wise")
    with pytest.raises(RunConfigError) as raised:
        planned(on_cpu(2), tables=tables, sharding=hints)
    one, two = raised.value.mistakes
    assert one.startswith("tables.sharding.one: column_wise cuts a width into equal multiples of 4")
    assert "one for each of 2 processes at most, got a width of 4; allowed table_wise" in one
    assert two.startswith("tables.sharding.two: ")
    assert "got a width of 20" in two
    with pytest.raises(RunConfigError, match=r"no sharded table of this name.*did you mean 'one'"):
        model(tables=tables, sharding={"onee": "row_wise"})
    rowwise = TablesConfig(
        optimizer=FusedOptimizer(name="rowwise_adagrad"), sharding={"one": "column_wise"}
    )
    with pytest.raises(RunConfigError, match="column_wise changes row-wise Adagrad"):
        check_optimizer(rowwise, device="cuda")


def test_no_process_is_left_without_a_row():
    """Pieces of 6 rows have two, so that a fourth process would have none; of 7, it has one."""
    tables = [("six", 6, 8, False), ("seven", 7, 8, False)]
    with pytest.raises(RunConfigError) as raised:
        planned(on_cpu(4), tables=tables, sharding={"six": "row_wise", "seven": "row_wise"})
    [message] = raised.value.mistakes
    assert message.startswith("tables.sharding.six: row_wise would leave one of 4 processes")
    assert message.endswith("got a table of 6 rows; allowed table_wise; change it, or leave it out")
    planned(on_cpu(3), tables=tables, sharding={"six": "row_wise", "seven": "row_wise"})


@pytest.mark.parametrize("is_even", [False, True])
def test_tables_of_few_rows_are_placed_whole(is_even):
    module = model(tables=[("six", 6, 8, False), ("seven", 7, 8, False)])
    attach_optimizer(module.embedder, device="cpu")
    search = PlanSearch(module, (module.embedder,), on_cpu(4), 64)
    found = search.best(memory_bytes=GIB, host_bytes=GIB, is_even=is_even)
    types = {option.name: option.sharding_type for option in found[1]}
    assert types["six"] == "table_wise"
    assert types["seven"] == "row_wise" or not is_even


def refuse(rank, world_size):
    plan.hardware_here = lambda device, *, num_nodes, world_size: on_cpu(
        world_size, num_bytes=10**6
    )
    try:
        plan.shard(model(), device=torch.device("cpu"))
    except RunConfigError as error:
        found = [""] * world_size
        dist.all_gather_object(found, str(error))
        return found
    return "not refused"


def test_training_refuses_on_all_ranks_what_does_not_fit(tmp_path):
    first, second = run_processes(2, refuse, tmp_path)
    assert first == second
    assert first.startswith("tables.history: does not fit, got ")
    assert first.endswith("`python -m recsys plan -c EXPERIMENT` says what would fit")
