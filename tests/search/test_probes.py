import pytest

from features.errors import RunConfigError
from features.load import parse_feature_set
from recsys.search.feature_line import feature_line
from recsys.search.probes import Candidate, propose, start_probes


@pytest.mark.parametrize(
    ("num_ids", "probes"),
    [(1, 1), (2, 1), (316, 1), (317, 2), (3_681, 3), (160_605, 4), (10**6, 5), (10**12, 6)],
)
def test_the_start_follows_the_number_of_ids(num_ids, probes):
    assert start_probes(Candidate("a", num_ids, 9, 8, 0.1)) == probes


def test_any_number_of_ids_starts_where_it_is():
    assert start_probes(Candidate("a", None, 5, 8, 0.1)) == 5


# Starts: 3, 1 and 1 probes.
ITEM, DEVICE, NOISE = (
    Candidate("item", 10_000, 1, 16, 0.1),
    Candidate("device", 3, 1, 8, 0.06),
    Candidate("noise", 9, 1, 8, -0.01),
)
ALL = (ITEM, DEVICE, NOISE)


@pytest.mark.parametrize(
    ("max_dim", "wanted"),
    [
        (None, (3, 2, 1)),  # .06 / 8 before .1 / 16
        (69, (3, 1, 1)),  # 5 + 48 + 8 + 8 wide: nothing fits
        (77, (3, 2, 1)),
        (93, (4, 2, 1)),  # then .1 / 16, since a second for device counts .06 / 16
        (101, (4, 3, 1)),
        (10_000, (6, 6, 1)),
    ],
)
def test_probes_go_where_a_dimension_is_worth_most(max_dim, wanted):
    found = propose(ALL, other_width=5, max_dim=max_dim)
    assert tuple(found.values()) == wanted
    assert list(found) == ["item", "device", "noise"]


def test_what_does_not_fit_leaves_room_for_what_does():
    assert propose((ITEM, DEVICE), other_width=0, max_dim=72) == {"item": 3, "device": 3}


def test_noise_gets_nothing():
    assert propose([NOISE], other_width=0, max_dim=None) == {"noise": 1}


def test_a_width_below_the_start_is_refused():
    with pytest.raises(RunConfigError) as raised:
        propose(ALL, other_width=5, max_dim=68)
    assert str(raised.value) == (
        "--max-dim: is less than what the numbers of ids ask for, got 68; allowed 69 and more; "
        "raise it, or give the tables a smaller dim"
    )


ENTRIES = [
    "{name: item_id, kind: categorical, table: shared}",
    "{name: brand, kind: categorical, table: shared, probes: 2, encoding: {min_count: 3}}",
    "{name: url, kind: categorical, table: shared, encoding: hash, fill: 'ä, b'}",
    "{name: hour, kind: categorical, table: shared, expr: 'extract(hour from \"the time\")'}",
    "{name: price, kind: bucketized, boundaries: [1, 2.5], table: shared}",
]


def test_a_line_is_the_feature_with_other_probes():
    head = (
        "sources: {events: e.parquet}\nlabel: {name: click}\n"
        "tables: {shared: {scheme: unified, rows: 9, dim: 4}}\nfeatures:\n"
    )
    text = head + "".join(f"  - {entry}\n" for entry in ENTRIES)
    before = parse_feature_set(text, name="before")
    lines = [feature_line(feature, probes=7) for feature in before.features]
    after = parse_feature_set(head + "\n".join(lines), name="after")
    for old, new in zip(before.features, after.features, strict=True):
        assert new == old.model_copy(update={"probes": 7})
    assert lines[0] == "  - {name: item_id, kind: categorical, table: shared, probes: 7}"
