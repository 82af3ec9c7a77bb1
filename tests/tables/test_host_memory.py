"""Tables whose rows lie in the memory of the machine, and are cached by its GPUs: planned only.

No kernel of them runs on a CPU.
"""

import json

import pytest
import torch
from tables.test_placement import GIB, model, on_cpu, on_gpus, planned
from torchrec.distributed.embedding_types import EmbeddingComputeKernel

from features.errors import RunConfigError
from features.table_spec import FullTable, QuantizedTable
from recsys.tables import fused, plan
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.fused import attach_optimizer, check_optimizer
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.overfull import too_large
from recsys.tables.placement import decide
from recsys.training.kept_items import KeptItems

# 256 MB of weights, 4 MB of state.
LARGE = [("large", 1_000_000, 64, False), ("small", 1000, 64, False)]


def placed(hardware, *, host_memory=("large",), optimizer="rowwise_adagrad", tables=LARGE):
    module = model(optimizer=optimizer, tables=tables)
    module.embedder.config = TablesConfig(
        dense_max_bytes=0, optimizer=module.embedder.config.optimizer, host_memory=host_memory
    )
    attach_optimizer(module.embedder, device=hardware.device)
    return decide(module, hardware=hardware, examples_per_rank=64)


def test_a_table_that_no_gpu_holds_fits_beside_it():
    hardware = on_gpus(1, 1, num_bytes=GIB // 8)
    assert not planned(hardware, optimizer="rowwise_adagrad", tables=LARGE).fits
    placement = placed(hardware)
    assert placement.fits
    assert too_large(placement) == []
    large, small = placement.tables
    [piece] = large.pieces
    assert large.is_on_host
    assert not small.is_on_host
    assert piece.host_bytes == 256_000_000 + 4_000_000
    # A fifth of the rows, 4 bytes for the place of every row, and 16 for each that is cached.
    assert piece.cache_bytes == 51_200_000 + 4_000_000 + 3_200_000
    # Ids and pooled vectors of 64 examples, as for a table on the GPU, and ids read ahead.
    assert abs(piece.buffer_bytes - (64 * 8 + 64 * 64 * 4)) <= 64 * 8
    assert placement.rank_host_bytes() == [260_000_000]
    needed = piece.cache_bytes + piece.buffer_bytes + small.num_bytes
    assert placement.rank_bytes() == [needed + placement.replicated_bytes]


def test_torchrec_is_told_to_cache():
    placement = placed(on_gpus(1, 2, num_bytes=GIB))
    of_module = placement.plan.plan["embedder.pooled.collection"]
    large, small = of_module["large"], of_module["small"]
    assert large.compute_kernel == EmbeddingComputeKernel.FUSED_UVM_CACHING.value
    assert large.cache_params.load_factor == 0.2
    assert small.compute_kernel == EmbeddingComputeKernel.FUSED.value
    assert small.cache_params is None


def test_a_machine_that_is_too_small_is_named():
    hardware = on_gpus(1, 2, num_bytes=GIB)
    hardware = type(hardware)(
        device="cuda", num_nodes=1, ranks_per_node=2, device_bytes=GIB, node_bytes=200 << 20
    )
    placement = placed(hardware)
    assert not placement.fits
    [message] = too_large(placement)
    assert message.startswith("tables.host_memory: large do not fit the memory of a machine")
    assert "allowed 170 MiB of 200 MiB (15% is left to the rest)" in message


def test_it_is_refused_on_a_cpu():
    with pytest.raises(RunConfigError, match=r"tables\.host_memory: moves rows from a GPU.*large"):
        check_optimizer(TablesConfig(host_memory=("large",)), device="cpu")
    check_optimizer(TablesConfig(host_memory=("large",)), device="cuda")
    with pytest.raises(RunConfigError, match="leave it out"):
        placed(on_cpu(1))


def one_table(spec, **options):
    reader = Reader(
        key="item",
        position=0,
        namespace="item",
        num_ids=100,
        probes=1,
        pooling="mean",
        is_multi_valued=False,
        max_length=1,
    )
    config = TablesConfig(dense_max_bytes=0, **options)
    return Embedder([LogicalTable("item", 8, spec, (reader,))], config=config)


def test_names_must_be_of_sharded_tables():
    spec = QuantizedTable(scheme="quantized")
    with pytest.raises(RunConfigError, match=r"no sharded table of this name, got 'itm'; allowed"):
        one_table(spec, host_memory=("itm",))


def test_rows_that_a_scheme_changes_must_lie_on_the_gpu():
    spec = QuantizedTable(scheme="quantized")
    with pytest.raises(RunConfigError, match="changes rows beside the kernels, got 'item', quant"):
        one_table(spec, host_memory=("item",))


class Lookup(torch.nn.Module):
    """Stands for kernels that cache rows."""

    purged = 0

    def purge(self):
        self.purged += 1


def test_loading_makes_gpus_forget_the_rows_they_have(monkeypatch):
    class Collection(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self._lookups = [Lookup(), Lookup()]

    monkeypatch.setattr(fused, "ShardedEmbeddingCollection", Collection)
    module = torch.nn.Sequential(torch.nn.Linear(1, 1), Collection())
    plan.forget_cached_rows(module)
    assert [lookup.purged for lookup in module[1]._lookups] == [1, 1]


def test_the_report_says_where_rows_lie():
    from rich.console import Console

    from recsys.planning.report import plan_json, plan_tables

    placement = placed(on_gpus(1, 1, num_bytes=GIB))
    embedder = model(tables=LARGE).embedder
    console = Console(width=200)
    with console.capture() as capture:
        for table in plan_tables(placement, embedder):
            console.print(table)
    [line] = [line for line in capture.get().splitlines() if line.startswith("large")]
    assert ", on host" in line
    assert "55.7 MiB" in line  # 58,400,000 bytes on the GPU
    assert "248 MiB" in capture.get()  # 260,000,000 bytes beside it
    found = json.loads(json.dumps(plan_json(placement, embedder)))
    assert found["host_bytes_of_ranks"] == [260_000_000]
    assert [table["is_on_host"] for table in found["tables"]] == [True, False]


def test_items_that_keep_their_vectors_must_lie_on_the_gpu():
    embedder = one_table(FullTable(), host_memory=("item",))
    kept = KeptItems(torch.tensor([1]), torch.ones(1, 8))
    with pytest.raises(RunConfigError, match="rows that keep their vectors lie on the GPU"):
        kept.check(embedder, key="item")
    kept.check(one_table(FullTable()), key="item")
