"""Expectations against the rows that tables really give."""

import pytest
import torch
from tables.conftest import reader
from torch import optim

from features.checking.collisions import expected_collisions
from features.checking.memory import REPLICATED_BYTES, table_memory
from features.load import parse_feature_set
from recsys.tables.collisions import collisions
from recsys.tables.config import TablesConfig
from recsys.tables.logical import LogicalTable
from recsys.tables.schemes import build_scheme
from recsys.training.ranking import RankingTask

NUM_IDS = {"a": 900, "b": 500}


def feature_set(table, features="{name: a, probes: 1}, {name: b}"):
    features = features.replace("}", ", kind: categorical, encoding: hash, table: t}")
    text = f"sources: {{events: e}}\ntables: {{t: {table}}}\nfeatures: [{features}]"
    return parse_feature_set(text, name="f")


@pytest.mark.parametrize(
    ("table", "probes"),
    [
        ("{scheme: hash, rows: 1500}", (1, 1)),
        ("{scheme: hash, budget: 48kB, dim: 8}", (1, 1)),
        ("{scheme: unified, rows: 1500}", (1, 1)),
        ("{scheme: unified, rows: 3000}", (3, 1)),
        ("{scheme: unified, rows: 2000, num_tables: 2}", (2, 1)),
        ("{scheme: unified, rows: 40}", (1, 2)),
    ],
)
def test_expected_shares_are_those_of_real_tables(table, probes):
    features = f"{{name: a, probes: {probes[0]}}}, {{name: b, probes: {probes[1]}}}"
    described = feature_set(table, features)
    expected = {c.feature: c for c in expected_collisions(described, NUM_IDS)}
    spec = described.resolved_tables()["t"]
    shares = {name: [] for name in NUM_IDS}
    for trial in range(16):  # names salt the hashes
        named = {f"{name}{trial}": count for name, count in NUM_IDS.items()}
        readers = [
            reader(name, k, num_ids=count, probes=probes[k])
            for k, (name, count) in enumerate(named.items())
        ]
        scheme = build_scheme(LogicalTable("t", spec.dim, spec, tuple(readers)))
        found = collisions(scheme, {name: torch.arange(n) for name, n in named.items()})
        for name, count in named.items():
            alone = collisions(scheme, {name: torch.arange(count)})[name]
            shares[name[0]].append((found[name].any_row, alone.same_rows))
    for name, of_feature in shares.items():
        some, every = torch.tensor(of_feature).mean(dim=0).tolist()
        assert some == pytest.approx(expected[name].some_row, abs=0.02)
        assert every == pytest.approx(expected[name].all_rows, abs=0.02)


def test_by_hand():
    [found] = expected_collisions(feature_set("{scheme: hash, rows: 2}", "{name: a}"), {"a": 3})
    assert (found.num_rows, found.some_row) == (2, pytest.approx(0.75))
    [found] = expected_collisions(feature_set("{scheme: unified, rows: 1}", "{name: a}"), {"a": 2})
    assert found.some_row == found.all_rows == 1
    [found] = expected_collisions(feature_set("{scheme: unified, rows: 10}", "{name: a}"), {"a": 1})
    assert found.some_row == 0


def test_hash_encodings_of_a_size():
    text = """
sources: {events: e}
features: [{name: a, kind: categorical, encoding: {kind: hash, size: 10}}, {name: b, kind: dense}]
"""
    [found] = expected_collisions(parse_feature_set(text, name="f"), {"a": 3})
    assert found.place == "encoding"
    assert found.some_row == pytest.approx(1 - 0.9**2)


def test_memory_follows_the_defaults_of_a_run():
    config = TablesConfig()
    assert config.dense_max_bytes == REPLICATED_BYTES
    assert config.optimizer.name == "adagrad"
    assert RankingTask(ranker=torch.nn.Identity).optimizer_factory is optim.Adam

    def of(scheme, num_rows, *, num_parts=1, world_size=1):
        return table_memory(
            scheme, num_rows=num_rows, dim=10, num_parts=num_parts, world_size=world_size
        )

    most = REPLICATED_BYTES // 40
    small = of("full", most, world_size=4)
    assert (small.place, small.bytes_with_state) == ("replicated", 3 * REPLICATED_BYTES)
    assert small.bytes_per_rank == 4 * REPLICATED_BYTES
    large = of("hash", most + 1, world_size=4)
    assert (large.place, large.optimizer) == ("sharded", "adagrad")
    assert large.bytes_per_rank == (REPLICATED_BYTES + 40) // 2
    halves = of("unified", 2 * most + 1, num_parts=2)
    assert (halves.place, halves.bytes_with_state) == ("replicated", 6 * REPLICATED_BYTES)
    assert of("dpq", 100) is None
    assert of("full", None) is None


def test_the_state_of_adam_has_two_numbers_for_each():
    weight = torch.nn.Parameter(torch.ones(3, 4))
    adam = optim.Adam([weight])
    weight.sum().backward()
    adam.step()
    tensors = [t for t in adam.state[weight].values() if t.shape == weight.shape]
    memory = table_memory("full", num_rows=3, dim=4, num_parts=1, world_size=1)
    numbers = [weight, *tensors]
    assert sum(4 * t.numel() for t in numbers) == memory.bytes_with_state
    assert sum(4 * t.numel() for t in [*numbers, weight.grad]) == memory.bytes_per_rank
