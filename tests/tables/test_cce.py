"""Clustering a table in training: what becomes of vectors, when, and on any number of ranks."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from gloo import WORLD_SIZES, run_processes, whole
from tables.conftest import reader
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import FeatureConfigError
from features.table_spec import CCETable
from recsys.tables.after_steps import after_steps
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.plan import shard
from recsys.tables.schemes import build_scheme
from recsys.types import Batch

NUM_IDS = {"a": 300, "b": 120}
READERS = (
    reader("a", num_ids=NUM_IDS["a"]),
    reader("b", 1, num_ids=NUM_IDS["b"]),
    reader("past.a", 2, namespace="a", num_ids=NUM_IDS["a"], pooling="sum", many=True),
)


def clustered_table(*, multiplexed=True, num_chunks=2, dim=8, **options):
    spec = CCETable(
        scheme="cce", rows=40, multiplexed=multiplexed, num_chunks=num_chunks, **options
    )
    return LogicalTable("t", dim, spec, READERS)


def vectors(scheme, rows_VW):
    ids = {r.key: torch.arange(NUM_IDS[r.namespace]) for r in READERS}
    rows = scheme.remap(ids)
    return scheme.combine({x.name: rows_VW[rows[x.name]] for x in scheme.lookups}, ids)


def first_rows(scheme):
    """Rows as if trained: of several sizes."""
    [physical] = scheme.physical_tables
    rows = initial_rows(physical, seed=0)
    return rows * torch.linspace(0.2, 3, len(rows)).unsqueeze(1)


# ------------------------------------------------------------------------------------ clustering
@pytest.mark.parametrize("multiplexed", [True, False])
def test_vectors_become_centroids_and_the_mean_of_what_is_left(multiplexed):
    scheme = build_scheme(clustered_table(multiplexed=multiplexed))
    rows = first_rows(scheme)
    hashes = scheme.remap({r.key: torch.arange(NUM_IDS[r.namespace]) for r in READERS})
    before = vectors(scheme, rows)
    new = scheme.clustered(rows)
    assert int(scheme.num_clusterings) == 1
    after = vectors(scheme, new)
    again = scheme.remap({r.key: torch.arange(NUM_IDS[r.namespace]) for r in READERS})
    assert torch.equal(after["a"], after["past.a"])
    for group in (["a", "b"],) if multiplexed else (["a"], ["b"]):
        for chunk in range(2):
            part = slice(4 * chunk, 4 * chunk + 4)
            old = torch.cat([before[key][:, part] for key in group]).double().numpy()
            clusters = np.concatenate([scheme.clusters(key)[:, chunk].numpy() for key in group])
            of_hash = np.concatenate([again[f"{key}@hash{chunk}"].numpy() for key in group])
            centroids = {c: old[clusters == c].mean(0) for c in set(clusters)}
            for place, vector in enumerate(np.concatenate([after[k][:, part] for k in group])):
                peers = [p for p in range(len(old)) if of_hash[p] == of_hash[place]]
                residual = np.mean([old[p] - centroids[clusters[p]] for p in peers], axis=0)
                np.testing.assert_allclose(vector, centroids[clusters[place]] + residual, atol=1e-5)
    for key in NUM_IDS:  # other hashes, and vectors that are nearer than those of strangers
        assert (again[f"{key}@hash0"] == hashes[f"{key}@hash0"]).float().mean() < 0.2
        moved = (after[key] - before[key]).square().sum()
        strangers = (after[key].roll(1, 0) - before[key]).square().sum()
        assert moved < 0.5 * strangers


def test_a_clustering_keeps_what_the_rows_can_tell_apart():
    """As many clusters as there are different sums: nothing is lost."""
    scheme = build_scheme(clustered_table())
    rows = torch.zeros_like(first_rows(scheme))
    rows[:40] = first_rows(scheme)[:40]  # of clusters alone, 20 a chunk
    before = vectors(scheme, rows)
    new = scheme.clustered(rows)
    for key, vector in vectors(scheme, new).items():
        torch.testing.assert_close(vector, before[key], atol=1e-6, rtol=0)
    assert new[40:].abs().max() < 1e-6


def test_one_seed_gives_one_clustering_and_another_another():
    found = {}
    for seed in (0, 0, 1):
        scheme = build_scheme(clustered_table(seed=seed))
        rows = scheme.clustered(scheme.clustered(first_rows(scheme)))
        same = found.setdefault(seed, (rows, scheme.clusters("a")))
        assert torch.equal(rows, same[0])
        assert torch.equal(scheme.clusters("a"), same[1])
    assert not torch.equal(found[0][1], found[1][1])


def test_rows_that_no_cluster_needs_stay():
    spec = CCETable(scheme="cce", rows=40, num_chunks=1)
    scheme = build_scheme(LogicalTable("t", 4, spec, (reader("x", num_ids=5),)))
    rows = first_rows(scheme)
    ids = {"x": torch.arange(5)}
    found = scheme.remap(ids)
    sums = rows[found["x@cluster0"]] + rows[found["x@hash0"]]
    new = scheme.clustered(rows)
    torch.testing.assert_close(new[scheme.remap(ids)["x@cluster0"]], sums)
    assert torch.equal(new[5:20], rows[5:20])


def test_clusterings_come_after_their_steps():
    table = clustered_table(cluster_every=3, num_clusterings=2)
    embedder = Embedder([table], config=TablesConfig())
    scheme = embedder.schemes["t"]
    [after_step] = after_steps(embedder)
    found = []
    for step in range(12):
        before = embedder.replicated.weights["t"].clone()
        after_step(step)
        if not torch.equal(before, embedder.replicated.weights["t"]):
            found.append(step)
    assert found == [2, 5]
    assert int(scheme.num_clusterings) == 2


def test_bytes_by_hand():
    scheme = build_scheme(clustered_table(num_chunks=4))  # 20 rows of each kind, 8 wide
    [physical] = scheme.physical_tables
    assert (physical.num_rows, physical.dim) == (160, 2)
    assert scheme.num_bytes == 2 * 20 * 8 * 4
    assert scheme.index_bytes == (300 + 120) * 4
    wide = CCETable(scheme="cce", rows=1000, num_chunks=4)  # 500 do not fit a byte
    scheme = build_scheme(LogicalTable("t", 8, wide, READERS))
    assert scheme.index_bytes == (300 + 120) * 4 * 2


def test_chunks_divide_the_width_and_ids_are_bounded():
    with pytest.raises(FeatureConfigError, match=r"tables.t.num_chunks: .* got 3 for dim 8"):
        build_scheme(clustered_table(num_chunks=3))
    spec = CCETable(scheme="cce", rows=40)
    with pytest.raises(FeatureConfigError, match=r"cce table needs a bounded number of ids"):
        build_scheme(LogicalTable("t", 8, spec, (reader("x", num_ids=None),)))


# -------------------------------------------------------------------------------------- sharding
TABLE = clustered_table(cluster_every=2, num_clusterings=2)
LR, STEPS = 2.0**-4, 5
# Not column-wise: its tables are 4 wide, which is the least that fbgemm reads.
CASES = [*[{"t": how} for how in ("table_wise", "row_wise")], None]


def batch(step, rank=0, world_size=1):
    drawn = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 120, (3, 8, 2), generator=drawn)
    ids = ids[:, rank * 8 // world_size : (rank + 1) * 8 // world_size]
    values = torch.cat([ids[0, :, 0], ids[1, :, 0], ids[2].flatten()])
    num = ids.shape[1]
    lengths = torch.cat([torch.ones(2 * num).long(), torch.full((num,), 2)])
    nothing = torch.zeros(0)
    keyed = KeyedJaggedTensor(keys=[r.key for r in READERS], values=values, lengths=lengths)
    weights_B = torch.ones(keyed.stride())
    return Batch(keyed, None, nothing, nothing, weights_B, *[nothing.long()] * 4)


class Model(torch.nn.Module):
    """A loss whose gradients are exact in any order of sums, so that clusters cannot differ."""

    def __init__(self, config):
        super().__init__()
        self.embedder = Embedder([TABLE], config=config)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, batch, step):
        fields = self.embedder(batch).fields
        weights = torch.arange(8) % (2 + step % 3) - 0.5
        signs = zip(fields.values(), (1, -2, 4), strict=True)
        return sum((v * weights).sum() * sign for v, sign in signs) / 8 + 0 * self.scale


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
    found = _steps(model, module, trained, rank, world_size)
    for clusters in found[1].values():  # rank 1 has those of rank 0
        copy = torch.from_numpy(clusters).long()
        if world_size > 1:
            dist.broadcast(copy, src=1)
        assert torch.equal(copy, torch.from_numpy(clusters).long())
    return found


def _steps(model, module, trained, rank=0, world_size=1):
    optimizer = torch.optim.SGD(trained, lr=LR)
    hooks = after_steps(module.embedder)
    for step in range(STEPS):
        loss = model(batch(step, rank, world_size), step) * world_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for hook in hooks:
            hook(step)
    [weight] = [w for n, w in module.embedder.state_dict().items() if "schemes" not in n]
    scheme = module.embedder.schemes["t"]
    assert int(scheme.num_clusterings) == 2
    return whole(weight), {n: scheme.clusters(n).numpy() for n in NUM_IDS}


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_sharded_equals_unsharded(world_size, tmp_path):
    model = Model(TablesConfig(dense_max_bytes=0))
    model.embedder.materialize()
    rows, clusters = _steps(model, model, list(model.parameters()))
    for case, found in zip(CASES, run_processes(world_size, train, tmp_path, CASES), strict=True):
        np.testing.assert_allclose(found[0], rows, atol=1e-6, err_msg=str(case))
        for name, of_feature in clusters.items():
            np.testing.assert_array_equal(found[1][name], of_feature, err_msg=str(case))
