"""Smaller vectors beside each other: `python -m recsys compare-vectors BUNDLE DATA --out DIR`.

Asks each user's last item of the items before it, by the vectors of items in fewer bits, by their
first numbers, by short codes and by indexes, and writes what is missed as a table (results.csv)
and a picture (results.png: recall against bytes).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from features.errors import RecsysError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        "python -m recsys compare-vectors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="what `export` made of a sequence model"
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of raw Parquet files")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--bits",
        type=int,
        nargs="+",
        metavar="N",
        help="of codes, multiples of 16; else 1/32, 1/16 and 1/8 of those of the vectors",
    )
    parser.add_argument(
        "--max-users", type=int, default=10_000, metavar="N", help="users that are asked"
    )
    options = parser.parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    # Only now: help needs no torch.
    from recsys.retrieval.comparison import CSV, PNG, compare, table_lines

    try:
        compared = compare(
            options.bundle,
            options.data,
            options.out,
            bits=options.bits,
            max_users=options.max_users,
            say=lambda what: print(f"{what} ...", file=sys.stderr, flush=True),
        )
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    for file in compared.fitted:
        print(f"fitted {file.name}")
    print("\n".join(table_lines(compared.rows)))
    print(f"of {compared.num_users:,} users, each asked for their last item")
    print(f"{options.out / CSV}\n{options.out / PNG}")
    return 0
