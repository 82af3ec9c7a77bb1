"""Rows in few bits, against loops; every scheme's tables packed in them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tables.conftest import SPECS, reader, with_plan
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import CheckpointMismatchError
from features.table_spec import FullTable
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.few_bits import FewBitRows, row_bytes, stored_dtype
from recsys.tables.logical import LogicalTable
from recsys.tables.packing import packed, unpack_into

WHOLE = TablesConfig(dense_max_bytes=10**9, seed=1)
DTYPES = ("fp32", "fp16", "int8", "int4")


def by_hand(rows, row, bits):
    """One row, number by number, from the bytes as they are documented."""
    codes = rows.codes_RC[row].tolist()
    if bits == 4:
        codes = [half for byte in codes for half in (byte % 16, byte // 16)]
    scale, offset = float(rows.scales_R1[row]), float(rows.offsets_R1[row])
    return [offset + scale * code for code in codes[: rows.width]]


matrices = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.integers(0, 9)),
    elements=st.floats(-1000, 1000, width=32),
)


@given(values=matrices, bits=st.sampled_from([4, 8]), small=st.sampled_from([1.0, 1e-3, 1e-6]))
def test_no_number_moves_by_more_than_half_a_scale(values, bits, small):
    values_RD = torch.from_numpy(values) * small
    rows = FewBitRows.nearest(values_RD, bits=bits)
    found_RD = rows(torch.arange(len(values_RD)))
    assert found_RD.shape == values_RD.shape
    assert found_RD.dtype == torch.float32
    for row, wanted in enumerate(values_RD.tolist()):
        expected = by_hand(rows, row, bits)
        assert found_RD[row].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)
        scale = float(rows.scales_R1[row])
        span = max(wanted, default=0) - min(wanted, default=0)
        # Rounding outwards costs a part in a thousand, and the least number there is below 6e-5.
        most = (1 << bits) - 1
        assert scale <= (span * 1.002 + 1e-3 * max(map(abs, wanted), default=0)) / most + 1.3e-7
        apart = [abs(a - b) for a, b in zip(wanted, expected, strict=True)]
        lost = 1e-6 * max(map(abs, wanted), default=0) + 1e-37  # or below the least of 32 bits
        assert max(apart, default=0) <= scale * 0.5001 + lost


def test_two_codes_of_four_bits_share_a_byte_the_first_below():
    rows = FewBitRows.nearest(torch.tensor([[0.0, 15.0, 3.0, 7.0, 1.0]]), bits=4)
    assert rows.codes_RC.tolist() == [[15 * 16, 7 * 16 + 3, 1]]
    assert (rows.scales_R1.item(), rows.offsets_R1.item()) == (1.0, 0.0)
    assert rows(torch.tensor([0, 0])).tolist() == [[0.0, 15.0, 3.0, 7.0, 1.0]] * 2


def test_rows_of_one_number_and_of_zeros_are_kept():
    values_RD = torch.tensor([[0.0] * 8, [0.25] * 8, [-1.5] * 8])
    for bits in (4, 8):
        assert torch.equal(FewBitRows.nearest(values_RD, bits=bits)(torch.arange(3)), values_RD)


@pytest.mark.parametrize(("dtype", "share"), [("fp16", 0.5), ("int8", 0.3), ("int4", 0.17)])
def test_bytes_at_width_64(dtype, share):
    table = LogicalTable("t", 64, FullTable(), (reader("a", num_ids=50),))
    embedder = Embedder([table], config=WHOLE)
    sizes = {d: sum(t.nbytes for t in packed(embedder, dtype=d).values()) for d in ("fp32", dtype)}
    assert sizes["fp32"] == 50 * 64 * 4
    assert sizes[dtype] == 50 * row_bytes(64, dtype)
    assert sizes[dtype] <= share * sizes["fp32"]


def test_narrow_rows_have_16_bits_where_a_scale_would_cost_more():
    assert [stored_dtype(width, "int8") for width in (1, 4, 5)] == ["fp16", "fp16", "int8"]
    assert [stored_dtype(width, "int4") for width in (1, 2, 3, 4)] == ["fp16"] * 3 + ["int4"]
    assert stored_dtype(1, "fp32") == "fp32"


def looked_up(embedder):
    ids = torch.tensor([3, 0, 99, 4, 5, 6, 7])
    keyed = KeyedJaggedTensor(
        keys=["one", "many"], values=ids, lengths=torch.tensor([1, 1, 1, 2, 0, 2])
    )
    with torch.no_grad():
        found = embedder.sequences(keyed)
    return torch.cat([found[key].values_LD for key in ("one", "many")])


# How far vectors may be apart, by their size; some schemes multiply vectors, or cut small numbers.
APART = {"fp32": 0.0, "fp16": 2e-3, "int8": 0.03, "int4": 0.4}


@pytest.mark.parametrize("name", SPECS)
def test_every_scheme_in_every_dtype(name):
    readers = (reader("one"), reader("many", 1, pooling="none", many=True))
    table = with_plan(LogicalTable("t", 8, SPECS[name], readers), cut=True)
    embedder = Embedder([table], config=WHOLE).eval()
    try:
        stored = {dtype: packed(embedder, dtype=dtype) for dtype in DTYPES}
    except CheckpointMismatchError:  # deeplight's budget, which no step has met
        assert name == "deeplight"
        return
    expected = looked_up(embedder)
    for dtype, tensors in stored.items():
        served = Embedder([table], config=WHOLE, is_served=True).eval()
        unpack_into(served, tensors)
        assert not [n for n, t in served.named_parameters() if t.is_meta]
        apart = (looked_up(served) - expected).norm() / expected.norm().clamp(min=1e-6)
        assert apart <= APART[dtype], dtype
        if name.startswith(("masked", "quantized")):  # a form of their own
            assert all(torch.equal(t, stored["fp32"][n]) for n, t in tensors.items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_stay_in_few_bits_in_memory(dtype):
    table = LogicalTable("t", 8, FullTable(), (reader("a", num_ids=50),))
    stored = packed(Embedder([table], config=WHOLE), dtype=dtype)
    served = Embedder([table], config=WHOLE, is_served=True)
    unpack_into(served, stored)
    in_memory = [*served.parameters(), *served.buffers()]
    assert sum(t.nbytes for t in in_memory) == 50 * row_bytes(8, dtype)
    assert served.catalogue("a", num_ids=50).shape == (50, 8)
    assert [t.name for t in served.replicated_tables()] == ["t"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_numbers_that_have_no_form_are_refused(value):
    table = LogicalTable("t", 8, FullTable(), (reader("a", num_ids=5),))
    embedder = Embedder([table], config=WHOLE)
    with torch.no_grad():
        embedder.replicated.weights["t"][3, 2] = value
    assert packed(embedder)["replicated.weights.t"].shape == (5, 8)
    for dtype in ("fp16", "int8", "int4"):
        with pytest.raises(CheckpointMismatchError, match=rf"tables.t: holds .* {dtype} has no"):
            packed(embedder, dtype=dtype)
