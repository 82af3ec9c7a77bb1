import math

import pytest
import torch
from tables.conftest import reader

from features.table_spec import DHETable
from recsys.tables.logical import LogicalTable
from recsys.tables.schemes import build_scheme


@pytest.mark.parametrize("rows", [600, 3000])
def test_vectors_start_around_zero_and_differ_between_ids(rows):
    """Five layers give all ids much in common, which must count neither as mean nor as variance."""
    spec = DHETable(scheme="dhe", rows=rows)
    scheme = build_scheme(LogicalTable("table", 16, spec, (reader("a", 0, num_ids=4000),)))
    vectors_LD = scheme.combine({}, {"a": torch.arange(4000)})["a"].detach()
    assert vectors_LD.std(0).square().mean().sqrt().item() == pytest.approx(
        0.05 / math.sqrt(3), rel=0.1
    )
    assert vectors_LD.mean(0).abs().max().item() < 0.01
