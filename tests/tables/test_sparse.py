"""Matrices of mostly zeros: their bytes by hand, and the way there and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file

from recsys.tables.sparse import SparseForm

NUMBERS = st.sampled_from([0.0, 0.0, 0.0, -0.0, 1.5, -2.0, 1e-45, float("inf")])


@given(
    rows_VD=st.tuples(st.integers(0, 5), st.sampled_from([1, 2, 7, 300])).flatmap(
        lambda shape: arrays("float32", shape, elements=NUMBERS)
    )
)
def test_matrices_come_back(rows_VD):
    rows_VD = torch.from_numpy(rows_VD)
    form = SparseForm(*rows_VD.shape)
    stored = form.pack(rows_VD, name="t")
    assert torch.equal(form.unpack(stored, name="t"), rows_VD)
    num_bytes = sum(tensor.numel() * tensor.itemsize for tensor in stored.values())
    assert num_bytes == form.num_bytes(int(rows_VD.count_nonzero()))


@pytest.mark.parametrize("dim", [1, 255, 256, 257, 65_536, 65_537])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_rows_without_zeros_and_of_zeros_alone_come_back_from_a_file(dim, value, tmp_path):
    rows_VD = torch.full((2, dim), value)
    form = SparseForm(2, dim)
    save_file(form.pack(rows_VD, name="t"), tmp_path / "file")
    assert torch.equal(form.unpack(load_file(tmp_path / "file"), name="t"), rows_VD)


# Three numbers in four rows: values, columns, counts.
BYTES = {
    1: 3 * 4 + 3 * 1 + 4 * 1,
    255: 3 * 4 + 3 * 1 + 4 * 1,
    256: 3 * 4 + 3 * 1 + 4 * 2,
    257: 3 * 4 + 3 * 2 + 4 * 2,
    65_535: 3 * 4 + 3 * 2 + 4 * 2,
    65_536: 3 * 4 + 3 * 2 + 4 * 4,
    65_537: 3 * 4 + 3 * 4 + 4 * 4,
}


@pytest.mark.parametrize("dim", BYTES)
def test_bytes_by_hand(dim):
    form = SparseForm(4, dim)
    assert form.num_bytes(3) == BYTES[dim]
    assert form.most_nonzeros(BYTES[dim]) == 3
    assert form.most_nonzeros(BYTES[dim] - 1) == 2
    assert form.most_nonzeros(form.num_bytes(0) - 1) < 0
    assert form.most_nonzeros(10**9) == 4 * dim


def test_what_is_stored_by_hand():
    rows_VD = torch.tensor([[0, 5, 0], [0, 0, 0], [7, 0, 9.0]])
    stored = SparseForm(3, 3).pack(rows_VD, name="t")
    assert {name: tensor.tolist() for name, tensor in stored.items()} == {
        "t": [5, 7, 9],
        "t@columns": [1, 0, 2],
        "t@counts": [1, 0, 2],
    }
    assert [tensor.dtype for tensor in stored.values()] == [torch.float32, *[torch.uint8] * 2]
