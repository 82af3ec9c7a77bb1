"""Batches against a plain reference, for any number of ranks and workers."""

import gc
import threading
from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features import columns
from features.errors import DataError, RunConfigError
from recsys.data import loader as loader_module
from recsys.data.collate import numbers
from recsys.data.loader import BatchLoader
from recsys.data.rows import Ragged, Rows
from recsys.data.sources import MemorySource, ParquetSource
from recsys.types import Batch

WEIGHT = 0.5


class NumberRows:
    """A collate function whose batches only hold the numbers of their rows."""

    columns = (columns.ROW, columns.WEIGHT)

    def __call__(self, rows: Rows) -> Batch:
        none = torch.zeros(0, dtype=torch.int64)
        return Batch(
            ids=None,
            sequences=None,
            dense_BN=torch.zeros(len(rows), 0),
            labels_BT=torch.zeros(len(rows), 0),
            weights_B=torch.from_numpy(numbers(rows[columns.WEIGHT])),
            users_B=torch.from_numpy(np.array(rows[columns.ROW])),
            targets_B=none,
            seen_values=none,
            seen_lengths_B=none,
        )


def memory(num_rows, *, chunk_length=7):
    rows = {
        columns.ROW: np.arange(num_rows),
        columns.WEIGHT: np.full(num_rows, WEIGHT, np.float32),
    }
    return MemorySource(Rows(rows, num_rows), chunk_length=chunk_length)


def parquet(folder, num_rows, *, files=2, group=11):
    paths = []
    for number, rows in enumerate(np.array_split(np.arange(num_rows), files)):
        weights = pa.array(np.full(len(rows), WEIGHT, np.float32))
        table = pa.table({"unread": rows, columns.ROW: rows, columns.WEIGHT: weights})
        paths.append(folder / f"part-{number:05d}.parquet")
        pq.write_table(table, paths[-1], row_group_size=group)
    return ParquetSource(paths, columns=NumberRows.columns)


def loaders(source, *, world_size=1, **options):
    options = {"batch_size": 16, "training": True, "num_lanes": 4, "pool_rows": 10, **options}
    return [
        BatchLoader(source, collate=NumberRows(), rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]


def real(batch):
    return [int(u) for u, w in zip(batch.users_B, batch.weights_B, strict=True) if w > 0]


def global_batches(ranks):
    """Sorted real rows of each global batch."""
    by_rank = [list(rank) for rank in ranks]
    assert len({len(batches) for batches in by_rank}) == 1
    assert {len(batches) for batches in by_rank} == {len(ranks[0])}
    for batches in zip(*by_rank, strict=True):
        assert len({len(batch) for batch in batches}) == 1, "ranks differ in batch size"
    return [
        sorted(chain.from_iterable(map(real, batches))) for batches in zip(*by_rank, strict=True)
    ]


@pytest.mark.parametrize("training", [True, False])
@given(
    num_rows=st.integers(1, 120),
    chunk_length=st.integers(1, 40),
    pool_rows=st.integers(1, 50),
    lane_batch=st.integers(1, 9),
    world_size=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=60, deadline=None)
def test_each_row_once_and_never_an_empty_rank(
    training, num_rows, chunk_length, pool_rows, lane_batch, world_size
):
    ranks = loaders(
        memory(num_rows, chunk_length=chunk_length),
        world_size=world_size,
        batch_size=4 * lane_batch,
        pool_rows=pool_rows,
        training=training,
    )
    by_rank = [list(rank) for rank in ranks]
    assert all(len(batch) > 0 for batches in by_rank for batch in batches)
    assert Counter(chain.from_iterable(global_batches(ranks))) == Counter(range(num_rows))
    for batches in zip(*by_rank, strict=True):
        num_real = sum(len(real(batch)) for batch in batches)
        means = [float((b.weights_B * (b.users_B + 1)).sum()) / len(b) for b in batches]
        true = sum(WEIGHT * (row + 1) for batch in batches for row in real(batch)) / num_real
        if training:  # the mean over ranks is the mean over real rows
            assert np.mean(means) == pytest.approx(true, rel=1e-5)
        else:
            weights = {float(w) for b in batches for w in b.weights_B}
            assert weights <= {0.0, WEIGHT}


@pytest.mark.parametrize("num_rows", [64, 103])
def test_same_global_batches_for_any_ranks_and_workers(tmp_path, num_rows):
    source = parquet(tmp_path, num_rows)
    reference = global_batches(loaders(source))
    assert [len(batch) for batch in reference] == [16] * (num_rows // 16) + (
        [num_rows % 16] if num_rows % 16 else []
    )
    for world_size in (1, 2, 4):
        for num_workers in (0, 1, 2) if world_size < 4 else (0,):
            ranks = loaders(source, world_size=world_size, num_workers=num_workers)
            assert global_batches(ranks) == reference, (world_size, num_workers)


class ListedRows(NumberRows):
    """Batches that hold lists of their rows beside."""

    columns = (*NumberRows.columns, "lists")

    def __call__(self, rows: Rows) -> Batch:
        batch, lists = super().__call__(rows), rows["lists"]
        values, lengths = torch.from_numpy(lists.values), torch.from_numpy(lists.lengths)
        return replace(batch, seen_values=values, seen_lengths_B=lengths)


@pytest.mark.parametrize(("block_rows", "num_workers"), [(16, 0), (50, 0), (50, 2), (4096, 0)])
@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_are_the_same_whatever_is_taken_from_the_lanes_at_once(
    block_rows, num_workers, world_size, monkeypatch
):
    numbers_of = np.arange(215)
    lengths = numbers_of % 4
    rows = {
        columns.ROW: numbers_of,
        columns.WEIGHT: np.full(215, WEIGHT, np.float32),
        "lists": Ragged(np.repeat(numbers_of, lengths), lengths),
    }
    source = MemorySource(Rows(rows, 215), chunk_length=7)

    def batches(start):
        for rank in range(world_size):
            own = {"rank": rank, "world_size": world_size, "num_workers": num_workers}
            loader = BatchLoader(
                source,
                collate=ListedRows(),
                batch_size=16,
                training=True,
                num_lanes=4,
                pool_rows=10,
                **own,
            )
            loader.set_epoch(3, start_batch=start)
            for batch in loader:
                ids = batch.users_B.tolist()
                assert batch.seen_lengths_B.tolist() == [i % 4 for i in ids]
                assert batch.seen_values.tolist() == [i for i in ids for _ in range(i % 4)]
                yield ids

    monkeypatch.setattr(loader_module, "_BLOCK_ROWS", 1)
    expected = [list(batches(start)) for start in (0, 4, 13)]
    assert len(expected[0]) == 14 * world_size
    monkeypatch.setattr(loader_module, "_BLOCK_ROWS", block_rows)
    assert [list(batches(start)) for start in (0, 4, 13)] == expected


def test_order_is_exact_with_workers(tmp_path):
    source = parquet(tmp_path, 103)
    [reference] = loaders(source)
    [loader] = loaders(source, num_workers=2)
    assert [b.users_B.tolist() for b in loader] == [b.users_B.tolist() for b in reference]


def test_workers_leave_the_random_numbers_of_training_alone(tmp_path):
    [loader] = loaders(parquet(tmp_path, 40), num_workers=1)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(loader)
    assert torch.equal(torch.rand(2), expected)


def test_evaluation_is_in_file_order_rank_after_rank(tmp_path):
    source = parquet(tmp_path, 103)
    for world_size in (1, 2, 4):
        ranks = loaders(source, world_size=world_size, training=False)
        assert [row for rank in ranks for batch in rank for row in real(batch)] == [*range(103)]


def test_shuffling_follows_seed_and_epoch():
    def order(seed, epoch):
        [loader] = loaders(memory(103), seed=seed)
        loader.set_epoch(epoch)
        return [b.users_B.tolist() for b in loader]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_an_iteration_keeps_its_epoch():
    [loader] = loaders(memory(103))
    first = next(iter(loader)).users_B.tolist()
    started = iter(loader)
    loader.set_epoch(1, start_batch=2)
    assert next(started).users_B.tolist() == first


def test_a_batch_mixes_the_whole_data():
    [loader] = loaders(memory(6400, chunk_length=8), batch_size=64, pool_rows=400)
    spreads = [np.std(batch.users_B.numpy()) for batch in loader]
    assert np.mean(spreads) > 0.9 * 6400 / np.sqrt(12)  # of a uniform draw


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 3, 6, 7])
def test_resume(tmp_path, start, num_workers):
    [loader] = loaders(parquet(tmp_path, 103), num_workers=num_workers)
    loader.set_epoch(2)
    whole = [b.users_B.tolist() for b in loader]
    loader.set_epoch(2, start_batch=start)
    assert [b.users_B.tolist() for b in loader] == whole[start:]
    assert len(loader) == len(whole) == 7


def test_resume_and_ranks_read_only_what_they_need(tmp_path, monkeypatch):
    source = parquet(tmp_path, 800, group=10)
    read = []
    original = ParquetSource._read_group
    monkeypatch.setattr(
        ParquetSource, "_read_group", lambda s, g: (read.append(g), original(s, g))[1]
    )
    ranks = loaders(source, world_size=2)
    for rank in ranks:
        list(rank)
    assert len(read) <= 80 + 4  # every group once, but for those that a lane bound cuts
    read.clear()
    ranks[0].set_epoch(0, start_batch=40)
    list(ranks[0])
    assert len(read) <= 12


@pytest.mark.parametrize("num_workers", [0, 1])
def test_restarts_and_ends_its_threads(num_workers):
    [loader] = loaders(memory(300), num_workers=num_workers)
    earlier = set(threading.enumerate())
    first, second = iter(loader), iter(loader)
    assert next(first).users_B.tolist() == next(second).users_B.tolist()
    del first, second
    gc.collect()
    for thread in threading.enumerate():  # a worker's own threads end a moment after it
        if thread is not threading.main_thread() and thread not in earlier:
            thread.join(timeout=20)
    assert set(threading.enumerate()) <= earlier
    assert len(list(loader)) == len(list(loader)) == len(loader)


def test_errors_reach_the_caller(tmp_path):
    source = parquet(tmp_path, 50)
    _ = source.chunk_lengths
    file = source.files[1]
    data = bytearray(file.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    file.write_bytes(data)
    [loader] = loaders(source)
    with pytest.raises(DataError, match=r"part-00001.parquet: row group \d+ cannot be read"):
        list(loader)


def test_no_rows_no_batches():
    [loader] = loaders(memory(0), training=False)
    assert len(loader) == 0
    assert list(loader) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 18},
            "data.batch_size: must be a multiple of data.num_lanes = 4, got 18; "
            "allowed 4, 8, ...; set data.batch_size: 16",
        ),
        (
            {"world_size": 3, "batch_size": 12},
            "data.num_lanes: must be a multiple of the number of ranks, got 4 with 3 ranks; "
            "allowed 3, 6, ...; set it so",
        ),
        (
            {"world_size": 2, "batch_size": 3, "training": False},
            "data.eval_batch_size: must be a multiple of the number of ranks, 2, got 3; "
            "allowed 2, 4, ...; set data.eval_batch_size: 4",
        ),
    ],
)
def test_sizes_that_do_not_divide(options, message):
    with pytest.raises(RunConfigError) as error:
        loaders(memory(10), **options)
    assert str(error.value) == message
