import pytest
from tables.conftest import reader

from features.errors import FeatureConfigError
from features.table_spec import (
    FullTable,
    HashedNetTable,
    HashTable,
    QRTable,
    RobeTable,
    UnifiedTable,
)
from recsys.tables.logical import LogicalTable
from recsys.tables.schemes import build_scheme


def table(spec, *readers):
    return LogicalTable("table", 4, spec, readers)


@pytest.mark.parametrize("scheme", ["hash", "unified"])
@pytest.mark.parametrize(("budget", "rows"), [("1.6MB", 100_000), ("1 KiB", 64), (16, 1)])
def test_a_byte_budget_is_spent_to_the_last_whole_row(scheme, budget, rows):
    spec = (HashTable if scheme == "hash" else UnifiedTable)(scheme=scheme, budget=budget)
    [physical] = build_scheme(table(spec, reader("a"))).physical_tables
    assert physical.num_rows == rows


def test_mistakes_name_the_table_and_the_way_out():
    with pytest.raises(
        FeatureConfigError, match=r"tables.table.budget: .* got 15; allowed 16 bytes and up"
    ):
        build_scheme(table(UnifiedTable(scheme="unified", budget=15), reader("a")))
    with pytest.raises(FeatureConfigError, match=r"full table .* 'a' .* give the encoding a size"):
        build_scheme(table(FullTable(), reader("a", num_ids=None)))
    spec = HashTable(scheme="hash", rows=10)
    with pytest.raises(FeatureConfigError, match="unknown cardinality: a; give"):
        build_scheme(table(spec, reader("a", 0, num_ids=None), reader("b", 1)))
    many = [reader(f"f{i}", i) for i in range(11)]
    says = r"got 10 rows; allowed 11 and more, 1 for each of its 11 features"
    with pytest.raises(FeatureConfigError, match=says):
        build_scheme(table(spec, *many))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (UnifiedTable(scheme="unified", rows=9, num_tables=3), "num_tables: .* allowed at most 2"),
        (QRTable(scheme="qr", rows=1), "got 1 rows; allowed 2 and more; raise"),
        (RobeTable(scheme="robe", budget=2), "got 0 numbers; allowed 4 and more; raise"),
        (RobeTable(scheme="robe", budget=12), "got 3 numbers; allowed 4 and more; raise"),
        (
            HashedNetTable(scheme="hashednet", budget=28, multiplexed=False),
            "got 7 numbers; allowed 8 and more, 4 for each of its 2 features; raise",
        ),
    ],
)
def test_sizes_below_the_least_are_refused(spec, says):
    with pytest.raises(FeatureConfigError, match=says):
        build_scheme(table(spec, reader("a", 0), reader("b", 1)))
