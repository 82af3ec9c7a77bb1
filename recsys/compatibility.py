"""Whether two sequence bundles can share one index: `python -m recsys compatibility OLD NEW DATA`.

The exit status is 0 where users by NEW_BUNDLE find the items of OLD_BUNDLE's index at least as well
as users by OLD_BUNDLE do, 1 where they do not, 2 where there is a mistake.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from features.errors import RecsysError

if TYPE_CHECKING:  # which needs torch
    from recsys.retrieval.compatibility import Compatibility

_NAMED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    options = _parser().parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    # Only now: help needs no torch.
    from recsys.retrieval.compatibility import compatibility

    try:
        found = compatibility(options.old, options.new, options.data)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(as_json(found), indent=2, ensure_ascii=False))
    else:
        _show(found)
    return 0 if found.is_compatible else 1


def as_json(found: Compatibility) -> dict[str, Any]:
    """All numbers, and the items that only one bundle knows.

    Args:
        found: What to tell.
    """
    return {
        "is_compatible": found.is_compatible,
        "num_users": found.num_users,
        "num_apart": found.num_apart,
        "unknown_targets": dict(found.unknown_targets),
        "num_common": found.num_common,
        "only_old": found.only_old.to_list(),
        "only_new": found.only_new.to_list(),
        "crossings": [asdict(crossing) for crossing in found.crossings],
    }


def _show(found: Compatibility) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"the last event of {found.num_users:,} users")
    columns = ("users by", "items by", "items", "recall@10", "NDCG@10")
    table = Table(*columns, "overlap@100 with old", "with new")
    for crossing in found.crossings:
        numbers = (crossing.recall, crossing.ndcg, crossing.overlap_old, crossing.overlap_new)
        cells = (f"{number:.4f}" for number in numbers)
        table.add_row(crossing.users, crossing.items, f"{crossing.num_items:,}", *cells)
    console.print(table)
    for line in _remarks(found):
        console.print(line)


def _remarks(found: Compatibility) -> Iterator[str]:
    for bundle, names in (("OLD_BUNDLE", found.only_old), ("NEW_BUNDLE", found.only_new)):
        if len(names):
            yield f"only {bundle} knows {_counted(names)}"
    for who, unknown in found.unknown_targets.items():
        if unknown:
            yield (
                f"{who.upper()}_BUNDLE does not know the last item of {unknown:,} users: they "
                f"count as missed on its items"
            )
    if found.num_apart:
        yield (
            f"{found.num_apart:,} users are left out: the two feature files keep different events "
            f"of them"
        )
    before, after, *_ = found.crossings
    verdict = "compatible" if found.is_compatible else "not compatible"
    yield (
        f"{verdict}: on old items, NDCG@10 is {after.ndcg:.4f} by new users and {before.ndcg:.4f} "
        f"by old ones"
    )


def _counted(names: pl.Series) -> str:
    named = ", ".join(repr(name) for name in names.head(_NAMED))
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names):,} {'item' if len(names) == 1 else 'items'}: {named}{more}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m recsys compatibility", description=__doc__)
    bundle = "what `export` made of a sequence model"
    parser.add_argument("old", type=Path, metavar="OLD_BUNDLE", help=f"{bundle}; has an index")
    parser.add_argument("new", type=Path, metavar="NEW_BUNDLE", help=f"{bundle}, trained anew")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of raw Parquet files")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
