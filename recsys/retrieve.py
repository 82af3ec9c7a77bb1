"""The best items of every user: `python -m recsys retrieve BUNDLE DATA --out DIR`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.errors import RecsysError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    options = _parser().parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    # Only now: help needs no torch.
    from recsys.retrieval.run import Retrieval, retrieve

    job = Retrieval(
        bundle=options.bundle,
        data=options.data,
        out=options.out,
        places=options.k,
        keep_seen=options.keep_seen,
        allow=options.allow,
        deny=options.deny,
        users=options.users,
        vectors=options.vectors,
        index=options.index,
        width=options.width,
        bits=options.bits,
    )
    try:
        summary = retrieve(job)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    for warning in summary["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    index = summary["index"]
    if index["kind"] != "exact":
        print(
            f"{_searched(index)}: recall@{job.places} {index['recall']:.4f} against exact, of "
            f"{index['recall_users']:,} users"
        )
    print(
        f"retrieved {summary['rows']:,} rows for {summary['users']:,} users, from "
        f"{summary['items']:,} items, into {options.out}"
    )
    return 0


def _searched(index: Mapping[str, Any]) -> str:
    """What items were searched with."""
    if index["kind"] == "funnel":
        return f"funnel by the first {index['width']} numbers"
    return f"{'built' if index['is_new'] else 'reused'} {index['file']}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m recsys retrieve", description=__doc__)
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="what `export` made of a sequence model"
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of raw Parquet files")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("-k", "--k", type=int, default=100, help="items per user")
    parser.add_argument(
        "--keep-seen", action="store_true", help="give items again that a user has had"
    )
    ids = "Parquet, CSV, or a text file with a raw id in each line"
    parser.add_argument(
        "--allow", type=Path, metavar="FILE", help=f"the only items that may be given: {ids}"
    )
    parser.add_argument("--deny", type=Path, metavar="FILE", help="items that may not be given")
    parser.add_argument("--users", type=Path, metavar="FILE", help="users that are asked for")
    parser.add_argument(
        "--vectors", action="store_true", help="write the vectors of users and items, too"
    )
    parser.add_argument(
        "--index",
        choices=("exact", "ivf", "hnsw", "pq", "funnel", "codes"),
        default="exact",
        help="how items are searched for; an index is kept beside the bundle",
    )
    parser.add_argument(
        "--width",
        type=int,
        metavar="N",
        help="first numbers that a funnel reads; the fewest of model.prefix_widths",
    )
    parser.add_argument("--bits", type=int, metavar="N", help="of codes, where several were fitted")
    return parser
