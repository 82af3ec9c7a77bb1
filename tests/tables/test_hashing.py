import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.tables.hashing import hash_to_rows, salt, splitmix64, uniform_pm1

MASK = 2**64 - 1
INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)


def splitmix64_reference(x: int) -> int:
    x &= MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@given(st.lists(INT64, min_size=1, max_size=20))
def test_splitmix64_equals_unsigned_arithmetic(numbers):
    mixed = splitmix64(torch.tensor(numbers))
    assert [number & MASK for number in mixed.tolist()] == list(map(splitmix64_reference, numbers))


@given(st.lists(INT64, min_size=1, max_size=20), INT64, st.integers(1, 10**9))
def test_rows_are_in_range(ids, one_salt, num_rows):
    rows = hash_to_rows(torch.tensor(ids), torch.tensor(one_salt), num_rows)
    assert rows.min() >= 0
    assert rows.max() < num_rows


def test_rows_are_the_same_on_every_machine_and_version():
    rows = hash_to_rows(torch.arange(5), torch.tensor(salt("unified", 0, "user_id", 0)), 1000)
    assert rows.tolist() == [542, 719, 963, 731, 272]
    assert salt("größe", 1) == -5601849571500531450


def test_salts_tell_their_parts_apart():
    assert salt("a", "bc") != salt("ab", "c")


def test_features_land_independently():
    ids = torch.arange(20_000)
    one, other = (hash_to_rows(ids, torch.tensor(salt("x", k)), 100) for k in range(2))
    # Two independent uniform draws out of 100 rows agree once in 100.
    assert (one == other).float().mean() == pytest.approx(0.01, abs=0.003)


def test_uniform_numbers_have_the_moments_of_the_uniform_distribution():
    numbers = uniform_pm1(torch.arange(100_000))
    assert numbers.min() >= -1
    assert numbers.max() < 1
    assert numbers.mean() == pytest.approx(0, abs=0.01)
    assert numbers.var() == pytest.approx(1 / 3, abs=0.01)
