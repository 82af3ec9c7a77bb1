"""The smallest numbers of a table, whatever its parts."""

import numpy as np
import pytest
import torch
from gloo import run_processes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import recsys.tables.magnitudes as module
from recsys.tables.magnitudes import Magnitudes

CPU = torch.device("cpu")
FLOATS = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0])


def pruned(values, num_smallest):
    """By sorting."""
    if num_smallest <= 0:
        return values
    largest = np.sort(np.abs(values), axis=None)[num_smallest - 1]
    return np.where(np.abs(values) <= largest, 0, values)


@given(
    values=st.tuples(st.integers(1, 6), st.integers(1, 4)).flatmap(
        lambda shape: arrays("float32", shape, elements=FLOATS)
    ),
    data=st.data(),
)
def test_the_smallest_are_those_of_a_sort(values, data):
    num_smallest = data.draw(st.integers(-1, values.size))
    row = data.draw(st.integers(0, len(values)))
    parts = [torch.from_numpy(part.copy()) for part in (values[:row], values[row:])]
    Magnitudes(parts, device=CPU, num_numbers=values.size).zero_smallest(num_smallest)
    assert np.array_equal(torch.cat(parts).numpy(), pruned(values, num_smallest))


def test_as_many_as_asked_for_where_no_two_are_alike(monkeypatch):
    monkeypatch.setattr(module, "_NUMBERS_PER_CHUNK", 64)
    values = torch.randperm(5000).view(500, 10).float().sub(2500.5).mul(1e-5)
    magnitudes = Magnitudes([values], device=CPU, num_numbers=5000)
    signs = torch.tensor([-1.0, 1.0]).repeat(2500).view(500, 10)
    values.abs_().mul_(signs)  # twice each magnitude, but for one sign
    for num_smallest in (2, 1000, 4998):
        magnitudes.zero_smallest(num_smallest)
        assert 5000 - values.count_nonzero() == num_smallest


def prune_on_rank(rank, world_size, values, num_smallest):
    """The table cut by rows, held by one rank alone, cut by columns, and replicated."""
    middle = len(values) // 2
    cut = {
        "rows": [values[:middle], values[middle:]][rank : rank + 1],
        "one": [values] if rank == 1 else [],
        "columns": [values[:, :1], values[:, 1:]][rank : rank + 1],
        "replicated": [values],
    }
    found = {}
    for name, parts in cut.items():
        own = [part.clone() for part in parts]
        Magnitudes(own, device=CPU, num_numbers=values.numel()).zero_smallest(num_smallest)
        everybodys = [None] * world_size
        torch.distributed.all_gather_object(everybodys, own)
        found[name] = [part.numpy() for parts in everybodys for part in parts]
    return found


@pytest.mark.parametrize("num_smallest", [1, 37, 120])
def test_ranks_agree_whatever_they_hold(num_smallest, tmp_path):
    values = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    found = run_processes(2, prune_on_rank, tmp_path, values, num_smallest)
    expected = pruned(values.numpy(), num_smallest)
    assert np.array_equal(np.concatenate(found["rows"]), expected)
    assert np.array_equal(np.concatenate(found["columns"], 1), expected)
    assert np.array_equal(found["one"][0], expected)
    assert all(np.array_equal(part, expected) for part in found["replicated"])
