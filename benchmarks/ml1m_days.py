"""MovieLens-1M as a click task that is split by days, as ReChorus has it.

    python benchmarks/ml1m_days.py --out DIR

Writes DIR/ratings.parquet with a column `split`, and DIR/users.parquet and DIR/items.parquet
beside it, for `--data.data_dir DIR`. RECSYS_DATA names the folder that has `ml-1m`.

Users and items have at least five ratings of 4 or 5. Of the days from the first rating to the last
one, the first 80 % train, the next 10 % validate and the last ones test, where only users and items
of training count. Days begin at midnight in China, as where the published numbers of rows were
counted: 983,836 of training, 5,190 of validation, 5,176 of test. The command checks them.

Source: data/MovieLens_1M/MovieLens-1M.ipynb of https://github.com/THUwangcy/ReChorus.
"""

import argparse
import os
import shutil
from pathlib import Path

import polars as pl

PUBLISHED = {"train": 983_836, "val": 5_190, "test": 5_176}
_DAY_S = 24 * 3600
_CHINA_S = 8 * 3600
_MIN_LIKED = 5


def with_enough_likes(ratings: pl.DataFrame) -> pl.DataFrame:
    """Ratings of users and items that have enough of 4 or 5, also when all others are gone."""
    before = None
    while before is None or len(ratings) < before:
        before = len(ratings)
        liked = ratings.filter(pl.col("rating") >= 4)
        for key in ("user_id", "item_id"):
            often = liked.group_by(key).len().filter(pl.col("len") >= _MIN_LIKED)
            ratings = ratings.join(often, on=key, how="semi")
    return ratings


def split_by_days(ratings: pl.DataFrame) -> pl.DataFrame:
    """The ratings that count, with a column `split`."""
    day = (pl.col("timestamp") + _CHINA_S) // _DAY_S
    share = (day - day.min()) / (day.max() - day.min())
    last = pl.when(share <= 0.9).then(pl.lit("val")).otherwise(pl.lit("test"))
    found = ratings.with_columns(split=pl.when(share <= 0.8).then(pl.lit("train")).otherwise(last))
    training = found.filter(pl.col("split") == "train")
    known = [pl.col(key).is_in(training[key].implode()) for key in ("user_id", "item_id")]
    return found.filter(pl.all_horizontal(known))


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description="MovieLens-1M, split by days as ReChorus has it.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    out = parser.parse_args().out
    source = Path(os.environ["RECSYS_DATA"]) / "ml-1m"
    ratings = split_by_days(with_enough_likes(pl.read_parquet(source / "ratings.parquet")))
    found = dict(ratings.group_by("split").len().iter_rows())
    if found != PUBLISHED:
        raise SystemExit(f"{source}: is other data, got rows {found}; allowed {PUBLISHED}")
    out.mkdir(parents=True)
    ratings.write_parquet(out / "ratings.parquet")
    for name in ("users", "items"):
        shutil.copy(source / f"{name}.parquet", out)
    print(f"wrote {out}: {', '.join(f'{n:,} rows of {s}' for s, n in found.items())}")


if __name__ == "__main__":
    main()
