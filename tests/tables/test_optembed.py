"""OptEmbed's tables: masks, thresholds, what is kept, and the pruned tables that follow."""

import numpy as np
import pytest
import torch
from gloo import run_processes
from tables.conftest import reader

from features.table_spec import OptEmbedTable, PrunedTable
from recsys.tables.blocks import Block
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.row_masks import Thresholds, row_mask
from recsys.tables.scheme import Part, PhysicalTable
from recsys.tables.schemes import build_scheme

SPEC = OptEmbedTable(scheme="optembed", threshold_lr=0.5, alpha=0.1)
READERS = (
    reader("a", 0, num_ids=30),
    reader("b", 1, num_ids=20),
    reader("past.a", 2, namespace="a", num_ids=30, many=True),
)


def supernet(*readers, dim=8):
    return build_scheme(LogicalTable("t", dim, SPEC, readers or READERS), seed=3)


def weights_of(scheme):
    return {t.name: initial_rows(t, seed=3) for t in scheme.physical_tables}


@pytest.mark.parametrize(
    ("norm", "slope"),
    [(1.0, 2.0), (1.3, 0.8), (0.7, 0.8), (1.4, 0.4), (2.0, 0.4), (0.0, 0.4), (2.01, 0.0)],
)
def test_the_estimate_of_the_step_has_a_long_tail(norm, slope):
    row = torch.tensor([[norm / 2, -norm / 2]], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    mask = row_mask(row, threshold)
    assert mask.item() == (norm > 1)
    mask.sum().backward()
    assert threshold.grad.item() == pytest.approx(-slope)
    signs = torch.tensor([[1.0, -1.0]]) if norm else torch.zeros(1, 2)
    torch.testing.assert_close(row.grad, slope * signs.double())


def test_training_reads_every_width_alike_often_and_evaluation_the_whole_row():
    scheme = supernet(reader("a", num_ids=1))
    ids, row = {"a": torch.zeros(4000, dtype=torch.int64)}, torch.arange(1.0, 9.0)
    vectors = {"a": row.repeat(4000, 1)}
    read = scheme.combine(vectors, ids)["a"]
    widths = (read != 0).sum(1)
    for width in range(1, 9):
        assert torch.equal(read[widths == width][0], row * (torch.arange(8) < width))
        assert (widths == width).float().mean().item() == pytest.approx(1 / 8, abs=0.03)
    torch.testing.assert_close(scheme.eval().combine(vectors, ids)["a"], vectors["a"])


def test_rows_below_the_threshold_of_their_feature_are_zeros():
    scheme = supernet().eval()
    [weight] = weights_of(scheme).values()
    with torch.no_grad():
        scheme.thresholds_F.copy_(torch.tensor([0.2, 0.15]))
    ids = {"a": torch.arange(30), "b": torch.arange(20), "past.a": torch.arange(30)}
    rows = scheme.remap(ids)
    found = scheme.combine({key: weight[rows[key]] for key in ids}, ids)
    for key, threshold in (("a", 0.2), ("b", 0.15), ("past.a", 0.2)):
        for number, row in enumerate(weight[rows[key]]):
            expected = row if row.abs().sum() > threshold else torch.zeros(8)
            assert torch.equal(found[key][number], expected)


def test_thresholds_go_down_their_gradient_and_stay_below_the_longest_rows():
    values = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    thresholds = torch.nn.Parameter(torch.tensor([0.5, 0.5]))
    blocks = {"a": Block(0, 40), "b": Block(40, 10)}
    part = Part(PhysicalTable("t", 50, 4), values, 0, 0)
    move = Thresholds(thresholds, [part], blocks=blocks, lr=2.0)
    move(0)  # without a gradient nothing moves
    thresholds.grad = torch.tensor([0.1, -50.0])
    move(1)
    assert thresholds.grad is None
    most = values[40:].sum(1).quantile(0.99).item()
    assert thresholds.tolist() == pytest.approx([0.3, most])
    assert move.kept_shares()["b"].item() == pytest.approx(0.1)


def cut_up(rank, world_size):
    """Norms of a table in parts of rows, in parts of columns, and of copies."""
    values = torch.arange(48.0).view(12, 4)
    table, found = PhysicalTable("t", 12, 4), []
    for part in (
        Part(table, values[rank * 6 : rank * 6 + 6], rank * 6, 0),
        Part(table, values[:, rank * 2 : rank * 2 + 2], 0, rank * 2),
        Part(table, values, 0, 0),
    ):
        thresholds = torch.nn.Parameter(torch.zeros(1))
        move = Thresholds(thresholds, [part], blocks={"a": Block(0, 12)}, lr=1.0)
        found.append(move.norms_S.tolist())
    return found


def test_norms_are_those_of_whole_rows_however_the_table_is_cut(tmp_path):
    expected = torch.arange(48.0).view(12, 4).sum(1).tolist()
    assert run_processes(2, cut_up, tmp_path) == [expected] * 3


def test_the_penalty_pushes_thresholds_up():
    scheme = supernet()
    with torch.no_grad():
        scheme.thresholds_F.copy_(torch.tensor([0.0, 1.0]))
    penalty = scheme.penalty()
    assert penalty.item() == pytest.approx(0.1 * (1 + np.exp(-1)))
    penalty.backward()
    assert scheme.thresholds_F.grad.tolist() == pytest.approx([-0.1, -0.1 * np.exp(-1)])
    assert scheme.updated_by_itself() == (scheme.thresholds_F,)


def pruned(scheme):
    weights = weights_of(scheme)
    spec = PrunedTable(scheme="pruned", plan="t.plan")
    return build_scheme(LogicalTable("t", 8, spec, READERS, plan=scheme.plan(weights)))


def test_a_pruned_table_reads_what_the_masks_leave_of_the_first_values():
    scheme = supernet().eval()
    [weight] = weights_of(scheme).values()
    with torch.no_grad():
        scheme.thresholds_F.copy_(torch.tensor([0.2, 9.0]))
    scheme.chosen = {"a": 5, "b": 3}
    cut = pruned(scheme)
    is_kept = weight.abs().sum(1) > 0.2
    is_kept[30:] = False
    is_kept[30 + weight[30:].abs().sum(1).argmax()] = True  # one is always kept
    expected = weight * is_kept[:, None]
    expected[:30, 5:] = 0
    expected[30:, 3:] = 0
    ids = {"a": torch.arange(30), "b": torch.arange(20), "past.a": torch.arange(30)}
    rows = cut.remap(ids)
    tables = {t.name: initial_rows(t, seed=99) for t in cut.physical_tables}
    looked_up = {x.name: tables[x.table][rows[x.name]] for x in cut.lookups}
    found = cut.combine(looked_up, ids)
    assert torch.equal(found["a"], expected[:30])
    assert torch.equal(found["past.a"], expected[:30])
    assert torch.equal(found["b"], expected[30:])
    num_kept = int(is_kept[:30].sum())
    assert 0 < num_kept < 30
    assert scheme.num_kept({"t": weight}) == {"a": num_kept, "b": 1}
    assert cut.num_bytes == (num_kept * 5 + 3) * 4
    assert cut.index_bytes == 4 + 3  # a bit for each of 30 and 20 ids


def test_plans_differ_by_rows_and_widths():
    scheme = supernet()
    first = pruned(scheme).row_meaning()
    assert pruned(supernet()).row_meaning() == first
    scheme.chosen = {"a": 8, "b": 7}
    narrower = pruned(scheme).row_meaning()
    with torch.no_grad():
        scheme.thresholds_F += 0.15
    fewer = pruned(scheme).row_meaning()
    assert len({str(meaning) for meaning in (first, narrower, fewer)}) == 3


def test_an_id_without_a_row_gets_no_gradient_anywhere():
    scheme = supernet()
    with torch.no_grad():
        scheme.thresholds_F.copy_(torch.tensor([0.2, 0.0]))
    cut = pruned(scheme)
    dropped = (weights_of(scheme)["t"][:30].abs().sum(1) <= 0.2).nonzero().flatten()
    nothing = torch.zeros(0, dtype=torch.int64)
    ids = {"a": dropped, "b": nothing, "past.a": nothing}
    table = initial_rows(cut.physical_tables[0], seed=0).requires_grad_()
    rows = cut.remap(ids)
    empty = torch.zeros(0, 8)
    vectors = cut.combine({"a": table[rows["a"]], "b": empty, "past.a": empty}, ids)
    vectors["a"].sum().backward()
    assert len(dropped)
    assert not table.grad.any()
