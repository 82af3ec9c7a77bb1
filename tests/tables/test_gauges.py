import math

import pytest
import torch
from tables.conftest import SPECS, reader

from features.table_spec import UnifiedTable
from recsys.tables.gauges import load_factors, row_norms
from recsys.tables.logical import LogicalTable
from recsys.tables.schemes import build_scheme

READERS = (
    reader("a", 0, num_ids=30),
    reader("past.a", 1, namespace="a", num_ids=30, many=True),
    reader("b", 2, num_ids=20),
)


def loads(spec, *readers):
    return load_factors(build_scheme(LogicalTable("t", 8, spec, readers)))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("full", {"t": 1.0}),
        ("hash", {"t": 50 / 40}),
        ("unified", {"t": 50 / 40}),
        ("pq", {"t": 50 / 80}),
        ("mixed_dim", {"t@a": 1.0, "t@b": 1.0}),
        ("robe", {}),
        ("dhe", {}),
    ],
)
def test_ids_per_row(name, wanted):
    assert loads(SPECS[name], *READERS) == pytest.approx(wanted)


def test_probes_in_turns_reach_some_tables_only():
    spec = UnifiedTable(scheme="unified", rows=40, num_tables=2)
    readers = reader("a", 0, num_ids=30, probes=2), reader("b", 1, num_ids=20)
    assert loads(spec, *readers) == {"t@0": 50 / 20, "t@1": 30 / 20}


def test_any_number_of_ids_has_no_load():
    spec = UnifiedTable(scheme="unified", rows=40)
    assert loads(spec, reader("a"), reader("b", 1, num_ids=None)) == {"t": None}


def test_lengths_of_rows():
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, -3.0]])
    norms, num_broken = row_norms(weight)
    assert num_broken == 0
    assert norms == pytest.approx((0, 1, 2, 3, 3 + 0.96 * 2, 5))


def test_broken_rows_are_counted_and_left_out():
    weight = torch.tensor([[3.0, 4.0], [math.nan, 0.0], [1.0, math.inf]])
    assert row_norms(weight) == ((5.0,) * 6, 2)
    norms, num_broken = row_norms(weight[1:])
    assert num_broken == 2
    assert all(map(math.isnan, norms))
