"""Short codes of a bundle's items: `python -m recsys fit-codes BUNDLE DATA`.

They lie beside the bundle; `python -m recsys retrieve BUNDLE DATA --index codes` searches by them.
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
        "python -m recsys fit-codes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="what `export` made of a sequence model"
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of raw Parquet files")
    parser.add_argument(
        "--bits",
        type=int,
        metavar="N",
        help="of a code, a multiple of 16; else a sixteenth of those of the vectors",
    )
    options = parser.parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    # Only now: help needs no torch.
    from recsys.retrieval.coding import write_codes

    try:
        written = write_codes(options.bundle, options.data, bits=options.bits)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"wrote {written.file}: {written.items:,} items of {written.bytes_per_item:g} bytes "
        f"instead of {written.vector_bytes}"
    )
    print(
        f"recall@{written.places} against exact, of {written.num_users:,} users that the codes "
        f"were not fitted on: {written.recall_alone:.4f} by codes alone, {written.recall:.4f} "
        f"with candidates scored by their vectors"
    )
    return 0
