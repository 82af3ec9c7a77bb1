"""The search judges the widths that tables will have, and records them."""

import json
from types import SimpleNamespace

import pytest
from tables.conftest import reader

from features.table_spec import OptEmbedTable
from recsys.search.evolution import Candidate, EvolutionConfig
from recsys.search.supernet import Supernet
from recsys.search.widths import WidthSearch
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.schemes import build_scheme

READERS = (reader("a", 0, num_ids=30), reader("b", 1, num_ids=20))
SPEC = OptEmbedTable(scheme="optembed", threshold_lr=0.5, alpha=0.1)


class Narrow(Supernet):
    """For which widths of 5 and 3 are best."""

    def candidate(self, genes):
        return Candidate(genes, 1 - (abs(genes[0] - 5) + abs(genes[1] - 3)) / 100, self.size(genes))


def supernet(*, dim, dense_max_bytes):
    scheme = build_scheme(LogicalTable("t", dim, SPEC, READERS), seed=3)
    weights = {t.name: initial_rows(t, seed=3) for t in scheme.physical_tables}
    task = SimpleNamespace(embedder=SimpleNamespace(replicated=SimpleNamespace(weights=weights)))
    return Narrow(task, None, {"t": scheme}, dense_max_bytes=dense_max_bytes)


def test_widths_are_rounded_up_only_where_the_table_will_be_sharded():
    above = supernet(dim=8, dense_max_bytes=20 * 3 * 4)
    assert above.stored((5, 3)) == (8, 3)
    assert above.stored((2, 4)) == (2, 4)
    assert above.stored((3, 5)) == (4, 8)
    assert supernet(dim=8, dense_max_bytes=10**9).stored((5, 3)) == (5, 3)
    assert supernet(dim=7, dense_max_bytes=0).stored((5, 3)) == (7, 4)


@pytest.mark.parametrize(
    ("dense_max_bytes", "best", "size"), [(10**9, (5, 3), 210), (20 * 3 * 4, (4, 3), 180)]
)
def test_the_winner_is_within_its_share_as_it_will_be_stored(tmp_path, dense_max_bytes, best, size):
    made = supernet(dim=8, dense_max_bytes=dense_max_bytes)
    config = EvolutionConfig(generations=6, max_share=0.6)
    search = WidthSearch(made, config, seed=0, file=tmp_path / "search.json")
    found = search.run()
    assert (found.genes, found.size) == (best, size)
    assert search.max_size == 0.6 * 50 * 8
    content = json.loads((tmp_path / "search.json").read_text())
    assert content["generations"][-1]["widths"] == {"t": dict(zip("ab", best, strict=True))}
    assert content["generations"][-1]["size"] == size
    assert all(made.stored(tuple(genes)) == tuple(genes) for genes, _, _ in content["known"])
