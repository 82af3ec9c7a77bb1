import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataError
from recsys.data.histories import Histories, HistoryWriter, train_prefixes
from recsys.data.rows import Ragged

HISTORIES = st.lists(st.lists(st.integers(0, 255), max_size=6), min_size=1, max_size=8)


def divisors(number):
    """A list that belongs to each event; that of 0 is empty."""
    return [n for n in range(1, number + 1) if number % n == 0]


def written(path, histories, *, cut=1):
    """Histories of items, each with the list of its divisors."""
    lengths = np.array([len(h) for h in histories], np.int64)
    writer = HistoryWriter(
        path,
        lengths=lengths,
        dtypes=dict.fromkeys(("item", "list"), np.dtype(np.uint8)),
        num_values={"list": sum(len(divisors(i)) for h in histories for i in h)},
    )
    for first, stop in ((0, cut), (cut, len(histories))):
        values = np.array([i for h in histories[first:stop] for i in h], np.uint8)
        lists = [divisors(int(i)) for i in values]
        packed = np.array([d for each in lists for d in each], np.uint8)
        ragged = Ragged(packed, np.array([len(each) for each in lists], np.int64))
        writer.write(first, stop, values={"item": values, "list": ragged}, is_train=values % 2 == 0)
    writer.close()
    return Histories(path)


@given(histories=HISTORIES, data=st.data(), max_length=st.none() | st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_slices_are_python_slices(tmp_path_factory, histories, data, max_length):
    cut = data.draw(st.integers(0, len(histories)))
    found = written(tmp_path_factory.mktemp("h") / "histories", histories, cut=cut)
    users = data.draw(st.lists(st.integers(0, len(histories) - 1), max_size=10))
    ends = [data.draw(st.integers(0, len(histories[u]))) for u in users]
    values, lengths = found.slice(
        np.array(users, np.int64),
        np.array(ends, np.int64),
        features=["item", "list", "item"],
        max_length=max_length,
    )
    expected = [histories[u][:e] for u, e in zip(users, ends, strict=True)]
    expected = [
        h if max_length is None else h[len(h) - min(len(h), max_length) :] for h in expected
    ]
    assert lengths.tolist() == [len(h) for h in expected]
    assert values[0].tolist() == values[2].tolist() == [i for h in expected for i in h]
    lists = [divisors(i) for h in expected for i in h]
    assert values[1].lengths.tolist() == [len(each) for each in lists]
    assert values[1].values.tolist() == [d for each in lists for d in each]


def test_all_lists_are_empty(tmp_path):
    found = written(tmp_path / "histories", [[0], [], [0, 0]])
    [lists], lengths = found.slice(np.array([2, 1]), np.array([2, 0]), features=["list"])
    assert (lists.lengths.tolist(), lists.values.tolist()) == ([0, 0], [])
    assert lengths.tolist() == [2, 0]
    with pytest.raises(AssertionError, match="list may have several values"):
        found.last(np.array([0]), np.array([1]), feature="list")


def test_last_events_before_a_position(tmp_path):
    found = written(tmp_path / "histories", [[], [7, 8], []])
    users, ends = np.array([0, 1, 1, 1, 2]), np.array([0, 2, 0, 1, 0])
    assert found.last(users, ends, feature="item").tolist() == [0, 8, 0, 7, 0]


def test_travels_as_its_path(tmp_path):
    found = written(tmp_path / "histories", [[1] * 1000, [2]])
    pickled = pickle.dumps(found)
    assert len(pickled) < 500
    assert pickle.loads(pickled).values("item").tolist() == [1] * 1000 + [2]


@pytest.mark.parametrize(
    ("user", "end", "words"),
    [
        (0, 2, "position outside of history row 0, got 2; allowed 0 ... 1; delete the store"),
        (1, -1, "position outside of history row 1, got -1; allowed 0 ... 1; delete the store"),
        (2, 0, "has no history of this row, got 2; allowed 0 ... 1; delete the store"),
        (-1, 0, "has no history of this row, got -1; allowed 0 ... 1; delete the store"),
    ],
)
def test_a_position_outside_a_history_is_named(tmp_path, user, end, words):
    found = written(tmp_path / "histories", [[1], [2]])
    with pytest.raises(DataError, match=rf"histories: {re.escape(words)}"):
        found.slice(np.array([1, user]), np.array([1, end]), features=["item"])


def test_offsets_that_do_not_end_at_the_number_of_values_are_named(tmp_path):
    written(tmp_path / "histories", [[1], [2]])
    np.save(tmp_path / "histories" / "values" / "item.npy", np.array([1, 2, 3], np.uint8))
    words = r"values/item.npy: does not fit the offsets beside it, got 3; allowed 2; delete the"
    with pytest.raises(DataError, match=words):
        Histories(tmp_path / "histories")


@pytest.mark.parametrize(
    ("is_train", "expected"),
    [("110", 2), ("111", 3), ("000", 0), ("101", -1), ("011", -1), ("", 0)],
)
def test_train_prefixes(is_train, expected):
    events = np.array([c == "1" for c in "1" + is_train + "0"], bool)
    offsets = np.array([0, 1, 1 + len(is_train), 2 + len(is_train)])
    assert train_prefixes(offsets, events).tolist() == [1, expected, 0]
