import pytest
import torch
from tables.conftest import SPECS, reader, with_plan

from features.table_spec import FullTable, HashTable, PQTable, PrunedTable, UnifiedTable
from recsys.tables.collisions import Collisions, collisions, frequent_ids, total
from recsys.tables.logical import LogicalTable
from recsys.tables.schemes import build_scheme

READERS = (
    reader("a", 0, num_ids=30),
    reader("past.a", 1, namespace="a", num_ids=30, many=True),
    reader("b", 2, num_ids=20),
)


def build(spec, *readers, dim=8):
    return build_scheme(with_plan(LogicalTable("table", dim, spec, readers)))


def rows_one_by_one(scheme, key, number):
    """Rows of one id, as (physical table, row), in the order of the lookups."""
    nothing = torch.zeros(0, dtype=torch.int64)
    found = scheme.remap(
        {r.key: torch.tensor([number]) if r.key == key else nothing for r in scheme.table.readers}
    )
    return [(x.table, found[x.name].item()) for x in scheme.lookups if x.reader == key]


def expected(scheme, ids):
    every = {(k, n): rows_one_by_one(scheme, k, n) for k, of in ids.items() for n in of.tolist()}
    found = {}
    for key, of_feature in ids.items():
        others = [
            (rows, [other for place, other in every.items() if place != (key, n)])
            for n in of_feature.tolist()
            for rows in [every[key, n]]
        ]
        same = sum(rows in rest for rows, rest in others)
        some = sum(any(set(rows) & set(other) for other in rest) for rows, rest in others)
        found[key] = Collisions(len(of_feature), same, some)
    return found


@pytest.mark.parametrize("name", SPECS)
def test_collisions_are_those_of_a_search_through_all_pairs(name):
    scheme = build(SPECS[name], *READERS)
    ids = {"a": torch.arange(3, 25), "b": torch.tensor([0, 7, 19, 4, 5, 1])}
    found = collisions(scheme, ids)
    assert found == (expected(scheme, ids) if scheme.lookups else {})
    if name in ("full", "mixed_dim"):
        assert total(found) == Collisions(28, 0, 0)
    if name == "hash":
        assert found["a"].num_same_rows == found["a"].num_any_row > 0


def test_features_with_other_numbers_of_probes_share_rows_but_no_vectors():
    readers = reader("a", 0, probes=3), reader("b", 1, probes=1), reader("c", 2, probes=3)
    scheme = build(UnifiedTable(scheme="unified", rows=3), *readers)
    ids = {key: torch.arange(9) for key in "abc"}
    found = collisions(scheme, ids)
    assert found == expected(scheme, ids)
    assert found["b"].any_row > 0.5
    assert 0 < found["a"].num_same_rows < found["a"].num_any_row


def test_an_id_does_not_collide_with_itself():
    scheme = build(UnifiedTable(scheme="unified", rows=1), reader("a", probes=4))
    assert collisions(scheme, {"a": torch.tensor([5])}) == {"a": Collisions(1, 0, 0)}
    assert collisions(scheme, {"a": torch.tensor([5, 6])}) == {"a": Collisions(2, 2, 2)}


def test_chunks_of_a_vector_have_rows_of_their_own():
    scheme = build(PQTable(scheme="pq", rows=2, num_chunks=4), reader("a"))
    found = collisions(scheme, {"a": torch.arange(6)})["a"]
    assert found.any_row == 1
    assert found == expected(scheme, {"a": torch.arange(6)})["a"]


def test_a_feature_of_any_number_of_ids():
    scheme = build(HashTable(scheme="hash", rows=2), reader("a", num_ids=None))
    assert collisions(scheme, {"a": torch.tensor([1, 2**62, 77])})["a"].num_any_row >= 2


def test_ids_without_rows_share_none():
    readers = reader("a", num_ids=100), reader("b", 1, num_ids=100)
    table = LogicalTable("table", 8, PrunedTable(scheme="pruned", plan="p"), readers)
    scheme = build_scheme(with_plan(table, cut=True))
    num_rows = [physical.num_rows for physical in scheme.physical_tables]
    assert all(10 < number < 90 for number in num_rows)
    every = torch.arange(100)
    assert collisions(scheme, {"a": every, "b": every}) == {
        "a": Collisions(num_rows[0], 0, 0),
        "b": Collisions(num_rows[1], 0, 0),
    }
    cut = every[~scheme.has_rows({"a": every, "b": every})["a"]]
    assert len(cut) == 100 - num_rows[0]
    assert collisions(scheme, {"a": cut, "b": every}) == {"b": Collisions(num_rows[1], 0, 0)}
    assert collisions(scheme, {"a": cut}) == {}


def test_without_ids_there_is_nothing_to_say():
    assert collisions(build(FullTable(), reader("a")), {}) == {}


@pytest.mark.parametrize(
    ("share", "wanted"),
    [
        (0.01, {"b": [1]}),
        (0.3, {"a": [1], "b": [1, 2]}),
        (0.5, {"a": [1, 2, 3], "b": [1, 2]}),
        (1, {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4, 5, 6]}),
    ],
)
def test_the_most_frequent_ids_of_all_features_together(share, wanted):
    counts = {"a": torch.tensor([9, 5, 5, 1]), "b": torch.tensor([90, 7, 5, 5, 1, 1])}
    found = frequent_ids(counts, share=share)
    assert {name: ids.tolist() for name, ids in found.items()} == wanted


def test_no_counts_no_frequent_ids():
    assert frequent_ids({}, share=0.01) == {}
