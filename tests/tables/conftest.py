from dataclasses import replace

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.columns import count_column
from features.table_spec import (
    AutoSrhTable,
    CCETable,
    DedupTable,
    DeepLightTable,
    DHETable,
    DPQTable,
    FullTable,
    HashedNetTable,
    HashTable,
    MaskedTable,
    MergedTable,
    MGQETable,
    MixedDimTable,
    MultihashTable,
    OptEmbedTable,
    PepTable,
    PlannedTable,
    PQTable,
    PrunedTable,
    QRTable,
    QuantizedTable,
    RobeTable,
    TTTable,
    UnifiedTable,
)
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.schemes import build_scheme
from recsys.tables.schemes.optembed import OptEmbedScheme
from recsys.types import Batch

# Every scheme a feature file may name, with sizes that leave room for collisions.
SPECS = {
    "full": FullTable(),
    "hash": HashTable(scheme="hash", rows=40),
    "unified": UnifiedTable(scheme="unified", rows=40),
    "unified in turns": UnifiedTable(scheme="unified", rows=40, num_tables=2),
    "multihash": MultihashTable(scheme="multihash", rows=40),
    "multihash of many": MultihashTable(scheme="multihash", rows=4),
    "multihash as it is": MultihashTable(scheme="multihash", rows=40, weighted=False),
    "pq": PQTable(scheme="pq", rows=40, num_chunks=2),
    "cce": CCETable(scheme="cce", rows=40, num_chunks=2, cluster_every=2),
    "dpq": DPQTable(scheme="dpq", rows=80, num_parts=2),
    "dpq by products": DPQTable(scheme="dpq", rows=80, num_parts=2, mode="sx"),
    "mgqe": MGQETable(scheme="mgqe", rows=80, num_parts=2),
    "qr": QRTable(scheme="qr", rows=40),
    "qr of many": QRTable(scheme="qr", rows=8),
    "robe": RobeTable(scheme="robe", rows=40, block=2),
    "hashednet": HashedNetTable(scheme="hashednet", rows=40),
    "tt": TTTable(scheme="tt", rows=40),
    "dhe": DHETable(scheme="dhe", rows=40, num_layers=2),
    "mixed_dim": MixedDimTable(scheme="mixed_dim", rows=80),
    "quantized": QuantizedTable(scheme="quantized"),
    "quantized to 16": QuantizedTable(scheme="quantized", bits=16, step="fixed"),
    "dedup": DedupTable(scheme="dedup", rows=15, block_rows=4),
    "merged": MergedTable(scheme="merged", plan="merged.plan"),
    "deeplight": DeepLightTable(scheme="deeplight", rows=40, damping_steps=0.005),
    "masked": MaskedTable(scheme="masked", plan="table.plan.safetensors"),
    "optembed": OptEmbedTable(scheme="optembed", threshold_lr=0.1, alpha=0.01),
    "pruned": PrunedTable(scheme="pruned", plan="pruned.plan"),
}
# Schemes of a first training.
WARM_UPS = {
    "pep": PepTable(scheme="pep", rows=15),
    "pep of a table": PepTable(scheme="pep", rows=15, per="table"),
    "autosrh": AutoSrhTable(scheme="autosrh", rows=18),
}
# What each planned table is cut down from, in its first training.
STAGED = {
    "masked": WARM_UPS["pep"],
    "merged": DedupTable(scheme="dedup", rows=60, block_rows=4),
    "pruned": OptEmbedTable(scheme="optembed"),
}


def with_plan(table, *, cut=False):
    """The table, with a plan that its first training would have made after no step at all.

    Such a plan keeps everything; `cut`: about half the rows, of half the width.
    """
    if not isinstance(table.spec, PlannedTable):
        return table
    scheme = build_scheme(replace(table, spec=STAGED[table.spec.scheme]))
    weights = {t.name: initial_rows(t, seed=0) for t in scheme.physical_tables}
    if cut and isinstance(scheme, OptEmbedScheme):
        scheme.chosen = dict.fromkeys(scheme.chosen, 4)
        torch.nn.init.constant_(scheme.thresholds_F, 0.2)
    return replace(table, plan=scheme.plan(weights))


def reader(
    key,
    position=0,
    *,
    namespace=None,
    num_ids=100,
    probes=1,
    pooling="mean",
    many=False,
    of_events="none",
    source=None,
):
    return Reader(
        key, position, namespace or key, num_ids, probes, pooling, many, of_events, source
    )


# Schemes whose tables can be sharded, each read by a feature of one id and one of several.
SHARDED = {
    "turns": UnifiedTable(scheme="unified", rows=60, num_tables=2),
    "multihash": MultihashTable(scheme="multihash", rows=60, num_hashes=4),
    "sums": MultihashTable(scheme="multihash", rows=60, weighted=False),
    "pq": PQTable(scheme="pq", rows=40, num_chunks=2),
    "cce": CCETable(scheme="cce", rows=40, num_chunks=2),
    "dpq": DPQTable(scheme="dpq", rows=80, num_parts=2),
    "mgqe": MGQETable(scheme="mgqe", rows=80, num_parts=2),
    "qr": QRTable(scheme="qr", rows=40),
    "tt": TTTable(scheme="tt", rows=40),
    "mixed": MixedDimTable(scheme="mixed_dim", rows=120),
    "fixed": QuantizedTable(scheme="quantized", step="fixed"),
    "pruned": PrunedTable(scheme="pruned", plan="pruned.plan"),
}
# Those that are replicated whatever their size.
REPLICATED = {
    "robe": RobeTable(scheme="robe", rows=40),
    "hashednet": HashedNetTable(scheme="hashednet", rows=40),
    "dhe": DHETable(scheme="dhe", rows=60, num_layers=2),
}
OF_SCHEMES = [f"{name}_{number}" for name in SHARDED | REPLICATED for number in ("one", "many")]


def example_tables():
    """One table per way of reading: pooled alone, as a sequence too, shared, tiny, by lists."""
    return [
        LogicalTable("user", 8, FullTable(), (reader("user", 0),)),
        LogicalTable(
            "item",
            8,
            FullTable(),
            (
                reader("item", 1),
                reader("history.item", 2, namespace="item", pooling="none", many=True),
            ),
        ),
        LogicalTable(
            "shared",
            4,
            UnifiedTable(scheme="unified", rows=300),
            (reader("a", 3, probes=2), reader("b", 4, pooling="sum", many=True)),
        ),
        LogicalTable(
            "buckets", 4, HashTable(scheme="hash", rows=150), (reader("c", 5), reader("d", 6))
        ),
        LogicalTable("tiny", 4, FullTable(), (reader("e", 7, num_ids=5, many=True),)),
        LogicalTable(
            "tags",
            4,
            UnifiedTable(scheme="unified", rows=200),
            (reader("past.tags", 8, probes=2, many=True, of_events="sum"),),
        ),
        LogicalTable(
            "genre",
            4,
            FullTable(),
            (reader("history.genre", 9, pooling="none", many=True, of_events="mean"),),
        ),
        # The two roles of a decoupled table, read with the same ids.
        *[
            LogicalTable(
                f"movie@{role}",
                dim,
                FullTable(),
                (
                    reader(f"movie@{role}", 8, namespace="movie", source="movie"),
                    reader(
                        f"history.movie@{role}",
                        9,
                        namespace="movie",
                        source="history.movie",
                        pooling="none",
                        many=True,
                    ),
                ),
            )
            for role, dim in (("attention", 4), ("representation", 8))
        ],
        *[
            with_plan(
                LogicalTable(
                    name,
                    8,
                    spec,
                    (
                        reader(f"{name}_one", 10 + 2 * number),
                        reader(f"{name}_many", 11 + 2 * number, pooling="sum", many=True),
                    ),
                ),
                cut=True,
            )
            for number, (name, spec) in enumerate((SHARDED | REPLICATED).items())
        ],
    ]


def example_batch(seed=0, num_examples=8):
    """Jagged where the tables allow it, with empty lists and histories."""
    rng = torch.Generator().manual_seed(seed)
    lengths = {}
    for key in "user", "item", "a", "b", "c", "d", "e":
        is_many = key in ("b", "e")
        lengths[key] = (
            torch.randint(0, 4, (num_examples,), generator=rng)
            if is_many
            else torch.ones(num_examples, dtype=torch.int64)
        )
    values = [
        torch.randint(0, 5 if key == "e" else 100, (int(n.sum()),), generator=rng)
        for key, n in lengths.items()
    ]
    history = torch.randint(0, 5, (num_examples,), generator=rng)
    past = torch.randint(0, 4, (num_examples,), generator=rng)
    for key in OF_SCHEMES:
        is_many = key.endswith("many")
        lengths[key] = draw(4, num_examples, rng) if is_many else torch.ones_like(history)
        values.append(draw(100, int(lengths[key].sum()), rng))
    sequences = {"history.item": (draw(100, int(history.sum()), rng), history)}
    for key, events in (("past.tags", past), ("history.genre", history)):
        counts = draw(4, int(events.sum()), rng)
        totals = torch.stack([of_example.sum() for of_example in counts.split(events.tolist())])
        sequences[key] = (draw(100, int(counts.sum()), rng), totals)
        sequences[count_column(key)] = (counts, events)
    lengths["movie"] = torch.ones_like(history)
    values.append(draw(100, num_examples, rng))
    sequences["history.movie"] = (draw(100, int(history.sum()), rng), history)
    empty = torch.zeros(0, dtype=torch.int64)
    return Batch(
        ids=KeyedJaggedTensor(
            keys=list(lengths), values=torch.cat(values), lengths=torch.cat([*lengths.values()])
        ),
        sequences=KeyedJaggedTensor(
            keys=list(sequences),
            values=torch.cat([values for values, _ in sequences.values()]),
            lengths=torch.cat([lengths for _, lengths in sequences.values()]),
        ),
        dense_BN=torch.zeros(num_examples, 0),
        labels_BT=torch.randint(0, 2, (num_examples, 1), generator=rng).float(),
        weights_B=torch.ones(num_examples),
        users_B=torch.arange(num_examples),
        targets_B=empty,
        seen_values=empty,
        seen_lengths_B=empty,
    )


def draw(below, size, rng):
    return torch.randint(0, below, (size,), generator=rng)


@pytest.fixture
def tables():
    return example_tables()


@pytest.fixture
def batch():
    return example_batch()
