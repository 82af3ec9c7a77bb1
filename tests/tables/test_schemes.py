import inspect
import itertools
import json
import typing

import pytest
import torch
from tables.conftest import reader

from features.errors import FeatureConfigError
from features.spec import FullTable, HashTable, Table, UnifiedTable
from recsys.tables.logical import LogicalTable
from recsys.tables.schemes import build_scheme

# Every scheme a feature file may name, with sizes that leave room for collisions.
SPECS = {
    "full": FullTable(),
    "hash": HashTable(scheme="hash", rows=40),
    "unified": UnifiedTable(scheme="unified", rows=40),
}


def table(spec, *readers, dim=4):
    return LogicalTable("table", dim, spec, readers)


def test_every_scheme_of_the_feature_file_is_tested():
    union = typing.get_args(Table)[0]
    names = {inspect.get_annotations(spec)["scheme"] for spec in typing.get_args(union)}
    assert {typing.get_args(eval(n, vars(typing)))[0] for n in names} == set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_rows_lie_in_the_physical_tables_and_widths_are_as_announced(name):
    readers = (reader("a", 0, num_ids=30), reader("b", 1, num_ids=20))
    scheme = build_scheme(table(SPECS[name], *readers))
    ids = {"a": torch.arange(30), "b": torch.tensor([], dtype=torch.int64)}
    rows = scheme.remap(ids)
    sizes = {t.name: t.num_rows for t in scheme.physical_tables}
    assert set(rows) == {lookup.name for lookup in scheme.lookups}
    for lookup in scheme.lookups:
        assert len(rows[lookup.name]) == len(ids[lookup.reader])
        assert ((rows[lookup.name] >= 0) & (rows[lookup.name] < sizes[lookup.table])).all()
    vectors = scheme.combine({n: torch.zeros(len(r), 4) for n, r in rows.items()})
    assert {k: v.shape for k, v in vectors.items()} == {
        r.key: (len(ids[r.key]), scheme.widths[r.key]) for r in readers
    }


@pytest.mark.parametrize("name", SPECS)
def test_readers_of_one_namespace_read_the_same_rows(name):
    readers = (
        reader("item", 0),
        reader("history.item", 1, namespace="item", pooling="none", many=True),
    )
    scheme = build_scheme(table(SPECS[name], *readers))
    rows = scheme.remap({"item": torch.arange(9), "history.item": torch.arange(9)})
    assert rows["item"].tolist() == rows["history.item"].tolist()


def test_full_gives_features_rows_of_their_own():
    scheme = build_scheme(table(FullTable(), reader("a", 0, num_ids=3), reader("b", 1, num_ids=4)))
    rows = scheme.remap({"a": torch.arange(3), "b": torch.arange(4)})
    assert rows["a"].tolist() + rows["b"].tolist() == list(range(7))
    assert scheme.physical_tables[0].num_rows == 7


@pytest.mark.parametrize("wrong", [-1, 3])
def test_full_names_the_feature_of_an_id_beyond_its_rows(wrong):
    scheme = build_scheme(table(FullTable(), reader("gender", num_ids=3)))
    with pytest.raises(ValueError, match=rf"gender: id {wrong} is out of range; allowed 0 ... 2"):
        scheme.remap({"gender": torch.tensor([0, wrong])})


def test_hash_shares_rows_in_proportion_and_leaves_none_over():
    readers = [reader(str(n), i, num_ids=n) for i, n in enumerate((600, 300, 99, 1))]
    scheme = build_scheme(table(HashTable(scheme="hash", rows=100), *readers))
    rows = scheme.remap({r.key: torch.arange(5000) for r in readers})
    used = {r.key: rows[r.key].unique().tolist() for r in readers}
    assert [len(used[r.key]) for r in readers] == [59, 30, 10, 1]
    assert sorted(itertools.chain(*used.values())) == list(range(100))


def test_unified_probes_are_independent_and_keep_their_rows_when_features_come_and_go():
    spec = UnifiedTable(scheme="unified", rows=1000)
    both = build_scheme(table(spec, reader("x", 0), reader("a", 1, probes=2)))
    alone = build_scheme(table(spec, reader("a", 0, probes=2)))
    ids = torch.arange(100)
    rows = both.remap({"x": ids, "a": ids})
    assert rows["a"].tolist() == alone.remap({"a": ids})["a"].tolist()
    assert (rows["a"] == rows["a@1"]).float().mean() < 0.05
    vectors = {"x": torch.zeros(1, 4), "a": torch.ones(1, 4), "a@1": torch.full((1, 4), 2.0)}
    assert both.combine(vectors)["a"].tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]]


@pytest.mark.parametrize("scheme", ["hash", "unified"])
@pytest.mark.parametrize(("budget", "rows"), [("1.6MB", 100_000), ("1 KiB", 64), (16, 1)])
def test_a_byte_budget_is_spent_to_the_last_whole_row(scheme, budget, rows):
    spec = (HashTable if scheme == "hash" else UnifiedTable)(scheme=scheme, budget=budget)
    [physical] = build_scheme(table(spec, reader("a"), dim=4)).physical_tables
    assert physical.num_rows == rows


def test_mistakes_name_the_table_and_the_way_out():
    with pytest.raises(FeatureConfigError, match=r"tables.table.budget: .* 16 bytes, got 15; "):
        build_scheme(table(UnifiedTable(scheme="unified", budget=15), reader("a"), dim=4))
    with pytest.raises(FeatureConfigError, match=r"full table .* 'a' .* give the encoding a size"):
        build_scheme(table(FullTable(), reader("a", num_ids=None)))
    spec = HashTable(scheme="hash", rows=10)
    with pytest.raises(FeatureConfigError, match="unknown cardinality: a; give"):
        build_scheme(table(spec, reader("a", 0, num_ids=None), reader("b", 1)))
    many = [reader(f"f{i}", i) for i in range(11)]
    with pytest.raises(FeatureConfigError, match="each of its 11 features, got 10 rows"):
        build_scheme(table(spec, *many))


@pytest.mark.parametrize("name", SPECS)
def test_equal_meaning_of_rows_is_equal_remapping(name):
    """What a checkpoint is refused by: any change that sends an id to another row."""
    readers = [reader("a", 0, num_ids=30), reader("b", 1, num_ids=20)]
    ids = {"a": torch.arange(30), "b": torch.arange(20)}

    def described(spec, readers):
        scheme = build_scheme(table(spec, *readers))
        rows = {key: value.tolist() for key, value in scheme.remap(ids).items()}
        meaning = scheme.row_meaning()
        assert json.loads(json.dumps(meaning)) == meaning
        return meaning, rows

    base = described(SPECS[name], readers)
    others = [described(spec, readers) for spec in SPECS.values()]
    others.append(described(SPECS[name], readers[::-1]))
    others.append(described(UnifiedTable(scheme="unified", rows=40, seed=1), readers))
    for meaning, rows in others:
        assert (meaning == base[0]) == (rows == base[1])
