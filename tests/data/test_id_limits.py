"""Ids beyond their table are found whatever whole numbers they are stored as."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.jagged import Ids, UnknownIdsError, check_ids

_TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


@pytest.mark.parametrize("dtype", _TYPES)
@given(data=st.data())
def test_exactly_the_ids_of_the_table_pass(dtype, data):
    info = np.iinfo(dtype)
    edges = sorted({info.min, -1 if info.min else 0, 0, 1, info.max - 1, info.max})
    values = data.draw(st.lists(st.sampled_from(edges), max_size=4))
    num_ids = data.draw(
        st.sampled_from([None, 1, 2, 100, info.max, info.max + 1, 1 << 62, 1 << 63])
    )
    # Every other entry of an array, which is then not contiguous.
    ids = Ids("item", np.repeat(np.array(values, dtype), 2)[::2], None, num_ids)
    wrong = [v for v in values if v < 0 or (num_ids is not None and v >= num_ids)]
    if not wrong:
        check_ids([ids])
        return
    with pytest.raises(UnknownIdsError, match=f"got {wrong[0]}"):
        check_ids([ids])
