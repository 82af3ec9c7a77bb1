"""Merging blocks that are alike, and tables of what is left."""

import numpy as np
import pytest
import torch
from tables.conftest import reader

from features.errors import FeatureConfigError
from features.table_spec import DedupTable, MergedTable
from recsys.tables import merging
from recsys.tables.logical import LogicalTable
from recsys.tables.merging import Likeness, merge_blocks
from recsys.tables.schemes import build_scheme

ALIKE = Likeness(tolerance=0.01, share=0.7, seed=0)
READERS = (reader("a", num_ids=10), reader("b", 1, num_ids=7))


def merge(rows, num_rows, *, lengths=None, likeness=ALIKE):
    blocks = torch.tensor(rows, dtype=torch.float32)
    lengths = torch.tensor(lengths or [blocks.shape[1]] * len(blocks))
    return merge_blocks(blocks, lengths, num_rows=num_rows, likeness=likeness).tolist()


def test_the_most_similar_are_merged_first_and_no_more_than_the_budget_asks_for():
    # 4 numbers a block; of 1 all are like those of 0, of 3 three of four are like those of 2
    rows = [
        [[1.0, 1, 1, 1]],
        [[1.005, 1, 1, 1]],
        [[2.0, 2, 2, 2]],
        [[2.005, 2, 2, 5]],
        [[9.0, 0, 3, 7]],
    ]
    assert merge(rows, 5) == [0, 1, 2, 3, 4]
    assert merge(rows, 4) == [0, 0, 2, 3, 4]
    assert merge(rows, 3) == [0, 0, 2, 2, 4]
    # nothing else is alike: then the nearest
    assert merge(rows, 2) == [0, 0, 0, 0, 4]
    assert merge(rows, 1) == [0, 0, 0, 0, 0]


def test_numbers_that_are_alike_by_less_than_the_share_do_not_go_first():
    rows = [[[1.0, 1, 1, 1]], [[1.0, 1, 1.3, 1.3]], [[1.2, 1.2, 1.2, 1.2]]]
    assert merge(rows, 2) == [0, 2, 2]  # by distance
    half = Likeness(tolerance=0.01, share=0.5, seed=0)
    assert merge(rows, 2, likeness=half) == [0, 0, 2]


def test_what_stands_for_others_is_the_one_with_the_smaller_third_quartile():
    assert merge([[[1.004, 1.004]], [[1.0, 1.0]]], 1) == [1, 1]
    assert merge([[[-1.004, -1.004]], [[-1.0, -1.0]]], 1) == [1, 1], "of magnitudes"


def test_short_blocks_go_into_long_ones_by_the_rows_they_have():
    rows = [[[1.0], [0.0]], [[8.0], [8.0]], [[1.001], [5.0]], [[8.0], [7.0]]]
    assert merge(rows, 6, lengths=[1, 2, 2, 2]) == [2, 1, 2, 3]
    assert merge(rows, 2, lengths=[1, 2, 2, 2])[0] != 0


def test_likeness_is_not_handed_on_within_a_round():
    """A chain of neighbours: each is like the next, and the ends are not alike."""
    chain = [[[1.0 + 0.009 * i] * 4] for i in range(9)]
    for num_rows in range(3, 9):
        stands = merge(chain, num_rows)
        assert len(set(stands)) == num_rows
        assert all(stands[target] == target for target in stands)
    assert max(abs(b - t) for b, t in enumerate(merge(chain, 5))) == 1


def one_by_one(blocks_BRD, lengths_B, signatures_BS, order, likeness):
    """Each block with the most similar of those before it; of equals the first."""
    for place, block in enumerate(order.tolist()):
        earlier = order[:place]
        candidates = earlier[(signatures_BS[earlier] == signatures_BS[block]).any(1)]
        if not len(candidates):
            continue
        length = int(lengths_B[block])
        offsets = blocks_BRD[candidates, :length] - blocks_BRD[block, :length]
        shares = offsets.abs().le(likeness.tolerance).float().mean((1, 2))
        best = int(shares.argmax())
        if shares[best] >= likeness.share:
            yield -float(shares[best]), block, int(candidates[best])


def likely_blocks(seed, *, num_blocks, num_rows, dim):
    """Many numbers that are alike or equal, some blocks that are equal, some that are short."""
    drawn = torch.Generator().manual_seed(seed)
    shape = (num_blocks, num_rows, dim)
    steps = torch.randint(0, 3, shape, generator=drawn) * torch.tensor([0.02, 0.3])[seed % 2]
    blocks = torch.randint(0, 2, (num_blocks, 1, 1), generator=drawn) * 0.5 + steps
    blocks += 0.004 * torch.randn(shape, generator=drawn) * (torch.arange(dim) % 2)
    copies = torch.randint(0, num_blocks, (2, num_blocks // 8), generator=drawn)
    blocks[copies[0]] = blocks[copies[1]]
    lengths = torch.full((num_blocks,), num_rows)
    short = torch.randperm(num_blocks, generator=drawn)[: num_blocks // 9]
    lengths[short] = torch.randint(1, num_rows + 1, short.shape, generator=drawn)
    return blocks * (torch.arange(num_rows)[:, None] < lengths[:, None, None]), lengths


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.0, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("at_once", [1, 300, 1 << 16])
def test_the_most_similar_are_those_of_a_loop(monkeypatch, seed, share, at_once):
    monkeypatch.setattr(merging, "_PAIRS_AT_ONCE", at_once)
    num_rows, dim = [(1, 3), (4, 2), (3, 5)][seed % 3]
    blocks, lengths = likely_blocks(seed, num_blocks=90, num_rows=num_rows, dim=dim)
    likeness = Likeness(tolerance=0.01, share=share, seed=seed)
    signatures = merging._signatures(blocks, seed=seed)
    order = merging._order(blocks, lengths)[torch.arange(90) % 7 != 3]  # some are merged already
    wanted = (blocks, lengths, signatures, order, likeness)
    expected = sorted(one_by_one(*wanted))
    assert len(expected) > 5
    assert sorted(merging._similar(*wanted)) == expected


@pytest.mark.parametrize("num_rows", [300, 120, 17, 5])
def test_any_budget_is_met_exactly_and_the_same_each_time(num_rows):
    drawn = torch.Generator().manual_seed(0)
    blocks = torch.randn(120, 3, 4, generator=drawn) * 0.05
    lengths = torch.full((120,), 3)
    lengths[[40, 119]] = 2
    blocks[[40, 119], 2:] = 0
    found = merge_blocks(blocks, lengths, num_rows=num_rows, likeness=ALIKE)
    kept = found.unique()
    assert torch.equal(found[kept], kept)
    left = int(lengths[kept].sum())
    assert num_rows - 3 < left <= num_rows
    assert (lengths[found] >= lengths).all()
    again = merge_blocks(blocks, lengths, num_rows=num_rows, likeness=ALIKE)
    assert torch.equal(found, again)


# ----------------------------------------------------------------------------- the planned table
def trained(**options):
    spec = DedupTable(scheme="dedup", **options)
    scheme = build_scheme(LogicalTable("t", 4, spec, READERS))
    rows = torch.randn(17, 4, generator=torch.Generator().manual_seed(0))
    return scheme, rows


@pytest.mark.parametrize("block_rows", [1, 3, 4, 100])
def test_ids_read_the_rows_of_the_block_that_stands_for_theirs(block_rows):
    num_rows = {1: 6, 3: 9, 4: 11, 100: 10}[block_rows]
    scheme, rows = trained(rows=num_rows, block_rows=block_rows)
    plan = scheme.plan({"t": rows})
    planned = MergedTable(scheme="merged", plan="p")
    merged = build_scheme(LogicalTable("t", 4, planned, READERS, plan))
    [physical] = merged.physical_tables
    assert physical.num_rows <= num_rows
    assert merged.num_bytes == physical.num_rows * 4 * 4
    cut = [[(0, i) for i in range(j, min(j + block_rows, 10))] for j in range(0, 10, block_rows)]
    cut += [[(1, i) for i in range(j, min(j + block_rows, 7))] for j in range(0, 7, block_rows)]
    assert merged.index_bytes == len(cut)
    shared = plan.kept["shared"].tolist()
    found = merged.remap({"a": torch.arange(10), "b": torch.arange(7)})
    read = (physical.first_values[found["a"]], physical.first_values[found["b"]])
    stands = {}  # the kept block has its own trained rows
    for place, block in enumerate(cut):
        own = torch.stack([rows[10 * f + i] for f, i in block])
        here = torch.stack([read[f][i] for f, i in block])
        if torch.equal(own, here):
            stands[shared[place]] = own
    assert sorted(stands) == sorted(set(shared))
    for place, block in enumerate(cut):
        here = torch.stack([read[f][i] for f, i in block])
        assert torch.equal(here, stands[shared[place]][: len(block)])
    again = build_scheme(LogicalTable("t", 4, planned, READERS, plan.without_first_values()))
    assert again.physical_tables[0].num_rows == physical.num_rows
    assert again.row_meaning() == merged.row_meaning()


def test_a_budget_for_all_rows_keeps_them():
    scheme, rows = trained(rows=17)
    plan = scheme.plan({"t": rows})
    np.testing.assert_array_equal(plan.first_values["t"], rows.numpy())
    assert plan.kept["shared"].tolist() == list(range(17))


def test_mistakes_name_the_table():
    with pytest.raises(FeatureConfigError, match=r"tables.t.rows: .* got 2; allowed 48 bytes"):
        trained(rows=2, block_rows=3)
    planned = MergedTable(scheme="merged", plan="p")
    with pytest.raises(FeatureConfigError, match="a merged table needs its plan"):
        build_scheme(LogicalTable("t", 4, planned, READERS))
