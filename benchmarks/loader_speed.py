"""Rows per second of the loader alone: what training can at most consume.

    python benchmarks/loader_speed.py [--rows 500000] [--batch-size 4096] [--epochs 5]

26 categorical and 13 dense features of random numbers; then the same with a history of 50 events.
Medians of several epochs.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from features.load import load_feature_set
from features.spec import FeatureSet, Sequence
from recsys.data.collate import RankingCollate
from recsys.data.loader import BatchLoader
from recsys.data.sources import ParquetSource
from recsys.data.store import EncodedStore, prepare

_NUM_CATEGORICAL, _NUM_DENSE, _NUM_IDS = 26, 13, 100_000


def main() -> None:
    """Make data, build the stores, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{arguments.rows} rows, batches of {arguments.batch_size}")
    print(f"{'features':24} {'workers':>7} {'rows/s':>12} {'first batch':>12}")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        _write_log(directory, num_rows=arguments.rows)
        for name, history in (("26 ids, 13 numbers", 0), ("the same, history of 50", 50)):
            feature_set = _feature_set(directory, history=history)
            started = time.perf_counter()
            store = prepare(feature_set, directory, directory / "store")
            built_s = time.perf_counter() - started
            for num_workers in (0, 1, 2):
                loader = _loader(store, arguments.batch_size, num_workers=num_workers)
                measured = [_measure(loader) for _ in range(arguments.epochs)]
                rows_per_s, first_s = map(statistics.median, zip(*measured, strict=True))
                print(f"{name:24} {num_workers:7} {rows_per_s:12,.0f} {first_s:10.2f} s")
            print(f"{'(building the store)':24} {'':7} {arguments.rows / built_s:12,.0f}")


def _write_log(directory: Path, *, num_rows: int) -> None:
    rng = np.random.default_rng(0)
    columns = {f"c{i}": rng.zipf(1.2, num_rows) % _NUM_IDS for i in range(_NUM_CATEGORICAL)}
    columns |= {f"d{i}": rng.random(num_rows, np.float32) for i in range(_NUM_DENSE)}
    columns["user_id"] = rng.integers(0, max(num_rows // 100, 1), num_rows)
    columns["time"] = np.arange(num_rows)
    columns["click"] = rng.integers(0, 2, num_rows)
    pl.DataFrame(columns).write_parquet(directory / "events.parquet")


def _feature_set(directory: Path, *, history: int) -> FeatureSet:
    encoding = f"{{kind: identity, size: {_NUM_IDS}}}"
    lines = [
        "sources: {events: events.parquet}",
        "entity: {user: user_id, item: c0, time: time}",
        "label: {name: click}",
        "features:",
    ]
    lines += [
        f"  - {{name: c{i}, kind: categorical, encoding: {encoding}}}"
        for i in range(_NUM_CATEGORICAL)
    ]
    lines += [f"  - {{name: d{i}, kind: dense}}" for i in range(_NUM_DENSE)]
    if history:
        lines.append(f"  - {{name: history, kind: sequence, of: c0, max_length: {history}}}")
    path = directory / f"history_{history}.yaml"
    path.write_text("\n".join(lines))
    return load_feature_set(path)


def _loader(store: EncodedStore, batch_size: int, *, num_workers: int) -> BatchLoader:
    sequences = store.schema.feature_set.of_kind(Sequence)
    histories = {s.name: store.histories_of(s) for s in sequences}
    collate = RankingCollate(store.schema, histories=histories)
    return BatchLoader(
        ParquetSource(store.example_files("train"), columns=collate.columns),
        collate=collate,
        batch_size=batch_size,
        training=True,
        num_workers=num_workers,
    )


def _measure(loader: BatchLoader) -> tuple[float, float]:
    """Rows per second of an epoch, and the seconds until its first batch."""
    started = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first_s = time.perf_counter() - started
    for _ in batches:
        pass
    return loader.num_rows / (time.perf_counter() - started), first_s


if __name__ == "__main__":
    main()
