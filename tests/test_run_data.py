"""Rows that stand for a whole split come from all over it."""

from types import SimpleNamespace

import pytest

from recsys.run_data import spread_batches


class Rows:
    """Numbers of rows, in batches."""

    def __init__(self, num_rows):
        self.num_rows, self.eval_batch_size = num_rows, 2048

    def evaluation_dataloader(self, split, *, batch_size):
        assert split == "val"
        starts = range(0, self.num_rows, batch_size)
        return [range(s, min(s + batch_size, self.num_rows)) for s in starts]


@pytest.mark.parametrize("max_examples", [1, 16, 200, 1000, 5000, 5803, 5804, 10**6])
def test_rows_are_spread_evenly(max_examples):
    data = Rows(5804)
    batches = list(spread_batches(data, "val", max_examples=max_examples))
    rows = [row for batch in batches for row in batch]
    assert len(rows) == len({*rows})
    longest = max(len(batch) for batch in batches)
    assert min(max_examples, 5804) - longest < len(rows) < max_examples + longest
    if max_examples >= 16:
        # Of each eighth of the split there is a row.
        assert {row * 8 // 5804 for row in rows} == {*range(8)}
    if max_examples >= 5804:
        assert rows == [*range(5804)]


def test_a_split_without_rows():
    empty = SimpleNamespace(eval_batch_size=4, evaluation_dataloader=lambda _, batch_size: [])
    assert list(spread_batches(empty, "val", max_examples=3)) == []
