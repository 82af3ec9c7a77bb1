import math

import pytest
import torch
from tables.conftest import reader

from features.table_spec import FullTable, MixedDimTable, QRTable, UnifiedTable
from recsys.tables.angles import angle, angles, narrowest
from recsys.tables.logical import LogicalTable
from recsys.tables.schemes import build_scheme


def outer(*numbers, times=7):
    vector = torch.tensor(numbers, dtype=torch.float64)
    return times * torch.outer(vector, vector)


@pytest.mark.parametrize(
    ("one", "other", "degrees"),
    [
        ((1, 0), (0, 5), 90),
        ((1, 0), (1, 1), 45),
        ((1, 0), (-3, 0), 0),
        ((3, 4), (4, 3), math.degrees(math.acos(24 / 25))),
        ((0, 0), (4, 3), None),
    ],
)
def test_of_linear_readers_it_is_the_angle_of_their_weights(one, other, degrees):
    found = angle(outer(*one), outer(*other, times=0.01))
    assert found == (None if degrees is None else pytest.approx(degrees, abs=1e-5))


def test_readers_of_planes_are_at_right_angles_only_where_they_share_none():
    identity = torch.eye(4, dtype=torch.float64)
    left, right = identity.clone(), identity.clone()
    left[2:], right[:2] = 0, 0
    assert angle(left, right) == 90
    # tr(M N) / (|M| |N|) = 2 / (sqrt 2 * 2): the cosine is its root
    assert angle(left, identity) == pytest.approx(math.degrees(math.acos(0.5**0.25)))


def of_table(spec, readers, moments, dim=2):
    return angles(build_scheme(LogicalTable("t", dim, spec, readers)), moments)


def named(found):
    return {(a.table, a.one, a.other): a.degrees for a in found}


def test_each_probe_is_a_reader():
    readers = reader("a", 0, probes=2), reader("b", 1)
    moments = {"a": outer(1, 0, 0, 2), "b": outer(1, 1)}
    found = of_table(UnifiedTable(scheme="unified", rows=9), readers, moments)
    assert named(found) == {
        ("t", "a", "a@1"): pytest.approx(90),
        ("t", "a", "b"): pytest.approx(45),
        ("t", "a@1", "b"): pytest.approx(45),
    }


def test_probes_that_take_turns_meet_those_of_their_table():
    readers = reader("a", 0, probes=2), reader("b", 1, probes=1)
    moments = {"a": outer(1, 0, 0, 2), "b": outer(1, 1)}
    spec = UnifiedTable(scheme="unified", rows=9, num_tables=2)
    assert named(of_table(spec, readers, moments)) == {("t@0", "a", "b"): pytest.approx(45)}


def test_readers_of_the_same_rows_are_no_pair_and_sequences_without_a_vector_are_missing():
    readers = (
        reader("a", 0),
        reader("past.a", 1, namespace="a", many=True),
        reader("last.a", 2, namespace="a", many=True, pooling="none"),
        reader("b", 3),
    )
    moments = {"a": outer(1, 0), "past.a": outer(1, 0), "b": outer(0, 1)}
    found = of_table(UnifiedTable(scheme="unified", rows=9), readers, moments)
    assert set(named(found)) == {("t", "a", "b"), ("t", "past.a", "b")}


def test_where_vectors_are_no_rows_whole_features_are_compared():
    readers, moments = (reader("a", 0), reader("b", 1)), {"a": outer(1, 0), "b": outer(1, 0)}
    for spec in (QRTable(scheme="qr", rows=20), FullTable()):
        assert named(of_table(spec, readers, moments)) == {("t", "a", "b"): 0}
    assert of_table(MixedDimTable(scheme="mixed_dim", rows=200), readers, moments) == ()


def test_the_narrowest_come_first_and_unknown_ones_not_at_all():
    readers = tuple(reader(key, n) for n, key in enumerate("abc"))
    moments = {"a": outer(1, 0), "b": outer(1, 1), "c": outer(2, 1)}
    spec = UnifiedTable(scheme="unified", rows=9)
    found = narrowest(of_table(spec, readers, moments))
    assert [(a.one, a.other) for a in found] == [("b", "c"), ("a", "c"), ("a", "b")]
    moments["c"] = outer(0, 0)
    assert len(narrowest(of_table(spec, readers, moments))) == 1
