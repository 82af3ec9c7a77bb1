"""How much the order of MovieLens-1M's events within one second tells of the next item.

    python benchmarks/ml1m_ties.py

Over pairs of events of one user and one exact second that follow each other: the sum over item
pairs of count², by the number of events. The more alike such pairs are, the higher it is; the
random order says what chance gives. RECSYS_DATA names the folder that has `ml-1m`.
"""

import os

import numpy as np
import polars as pl

ORDERS = {"file": "row", "user_pos": "user_pos", "random": "random"}


def concentration(ratings: pl.DataFrame, order: str) -> float:
    """Of the pairs that follow each other in that order."""
    by_time = ratings.sort("user_id", "timestamp", order)
    pairs = by_time.select(
        pl.col("item_id").alias("second"),
        pl.col("item_id").shift(1).alias("first"),
        is_tie=(pl.col("timestamp") == pl.col("timestamp").shift(1))
        & (pl.col("user_id") == pl.col("user_id").shift(1)),
    ).filter("is_tie")
    counts = pairs.group_by("first", "second").len()["len"].cast(pl.Float64)
    return float((counts**2).sum()) / len(pairs)


def main() -> None:
    """Print a line per order."""
    file = f"{os.environ['RECSYS_DATA']}/ml-1m/ratings.parquet"
    ratings = pl.read_parquet(file).with_row_index("row").filter("timestamp_exact")
    random = np.random.default_rng(0).random(len(ratings))
    ratings = ratings.with_columns(random=pl.Series(random))
    for name, column in ORDERS.items():
        print(f"{name:10}{concentration(ratings, column):8.2f}")


if __name__ == "__main__":
    main()
