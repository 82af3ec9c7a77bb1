import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.errors import SchemaMismatchError
from recsys.data.jagged import Ids, keyed_jagged
from recsys.data.rows import Ragged, Rows

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=9)


def jagged(key, lists, *, num_ids=10):
    values = np.array([v for one in lists for v in one], np.int64)
    return Ids(key, values, np.array([len(one) for one in lists]), num_ids)


@given(lists=LISTS)
def test_keyed_jagged_is_what_torchrec_would_compute(lists):
    ones = Ids("one", np.arange(len(lists), dtype=np.uint8), None, None)
    kjt = keyed_jagged([jagged("many", lists), ones], num_rows=len(lists))
    assert kjt._length_per_key == kjt.lengths().view(2, -1).sum(1).tolist()
    assert kjt._offset_per_key == [0, len(kjt.values()) - len(lists), len(kjt.values())]
    assert kjt.values().dtype == kjt.lengths().dtype == torch.int64
    assert [t.tolist() for t in kjt["many"].to_dense()] == lists
    assert [t.tolist() for t in kjt["one"].to_dense()] == [[i] for i in range(len(lists))]
    assert kjt.stride() == len(lists)


def test_times_may_be_any_numbers():
    times = Ids("h.@time", np.array([-9, 2**40]), np.array([2, 0]), None, are_ids=False)
    assert keyed_jagged([times], num_rows=2).values().tolist() == [-9, 2**40]


def test_no_keys_no_tensor():
    assert keyed_jagged([], num_rows=3) is None


def test_ids_outside_the_table_are_named():
    wrong = [jagged("tags", [[3], []], num_ids=3), Ids("user", np.array([-1, 4]), None, None)]
    with pytest.raises(SchemaMismatchError) as error:
        keyed_jagged([*wrong, jagged("fine", [[9], []])], num_rows=2)
    assert error.value.mistakes == (
        "features.tags: id that the schema does not know, got 3; allowed 0 ... 2; "
        "encode the data with this schema",
        "features.user: id that the schema does not know, got -1; allowed 0 and above; "
        "encode the data with this schema",
    )


@given(lists=LISTS, data=st.data())
def test_rows_take_slice_and_concatenate_like_lists(lists, data):
    num_rows = len(lists)
    vectors = [[i, i / 2] for i in range(num_rows)]
    frame = pl.DataFrame(
        {"n": range(num_rows), "many": lists, "x": [None, *range(1, num_rows)], "v": vectors},
        schema={
            "n": pl.UInt8,
            "many": pl.List(pl.UInt8),
            "x": pl.Float32,
            "v": pl.Array(pl.Float32, 2),
        },
    )
    table = frame.to_arrow()
    cut = data.draw(st.integers(0, num_rows))
    table = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    rows = Rows.from_arrow(table)
    index = data.draw(st.lists(st.integers(0, num_rows - 1), max_size=8))
    start = data.draw(st.integers(0, len(index)))
    taken = rows.take(np.array(index, np.int64))
    parts = [taken.slice(0, start), taken.slice(start, len(index)), rows]
    joined = Rows.concatenate(parts)
    expected = [*index, *range(num_rows)]
    assert len(joined) == len(expected)
    assert joined["n"].tolist() == expected
    assert joined["v"].tolist() == [vectors[i] for i in expected]
    numbers = [np.nan if i == 0 else float(i) for i in expected]
    np.testing.assert_array_equal(joined["x"], numbers)
    assert isinstance(joined["many"], Ragged)
    assert joined["many"].lengths.tolist() == [len(lists[i]) for i in expected]
    assert joined["many"].values.tolist() == [v for i in expected for v in lists[i]]


def test_a_null_id_is_a_bug():
    with pytest.raises(AssertionError, match="'item' has 1 nulls"):
        Rows.from_arrow(pa.table({"item": pa.array([1, None])}))


def test_no_rows():
    schema = pa.schema({"n": pa.uint8(), "many": pa.list_(pa.uint8())})
    rows = Rows.from_arrow(schema.empty_table())
    assert (len(rows), len(rows["n"]), len(rows["many"])) == (0, 0, 0)
