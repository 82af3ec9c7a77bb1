"""Renaming a feature moves none of its rows, whatever the scheme."""

from dataclasses import replace

import pytest
import torch
from tables.conftest import SPECS, WARM_UPS, reader, with_plan

from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.schemes import build_scheme

ALL = SPECS | WARM_UPS
HASHED = {"hash", "unified", "multihash", "pq", "cce", "robe", "hashednet", "dhe"}
NUM_IDS = 50


def read(spec, *readers):
    """Rows by lookup, sizes of what is stored, and vectors; all in order."""
    scheme = build_scheme(with_plan(LogicalTable("table", 4, spec, readers))).eval()
    ids = {r.key: torch.arange(NUM_IDS) for r in readers}
    rows = scheme.remap(ids)
    # By position, as names of what is stored may have features' names in them.
    first = {
        t.name: initial_rows(replace(t, name=f"t{i}"), seed=0)
        for i, t in enumerate(scheme.physical_tables)
    }
    looked_up = {x.name: first[x.table][rows[x.name]] for x in scheme.lookups}
    return (
        [rows[x.name].tolist() for x in scheme.lookups],
        [(t.num_rows, t.dim) for t in scheme.physical_tables],
        torch.stack([*scheme.combine(looked_up, ids).values()]),
    )


@pytest.mark.parametrize("name", ALL)
def test_rows_stay(name):
    # Equal numbers of ids: ties are broken by names, and must be so by the first ones.
    a, b = (reader(n, i, num_ids=NUM_IDS) for i, n in enumerate("ab"))
    renamed = replace(reader("z", 0, num_ids=NUM_IDS), first_name="a")
    before, after = read(ALL[name], a, b), read(ALL[name], renamed, b)
    assert before[:2] == after[:2]
    torch.testing.assert_close(before[2], after[2], rtol=0, atol=0)
    another = read(ALL[name], reader("z", 0, num_ids=NUM_IDS), b)
    if ALL[name].scheme in HASHED:
        assert another[0] != before[0] or not another[2].equal(before[2])
