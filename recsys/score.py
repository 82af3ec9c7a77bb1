"""Raw Parquet in, scored Parquet out: `python -m recsys score BUNDLE DATA --out DIR`."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from features.errors import RecsysError, RunConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    options = _parser().parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    # Only now: help needs no torch.
    from recsys.scoring.job import Job, share_of_environment
    from recsys.scoring.plan import Settings
    from recsys.scoring.run import score
    from recsys.scoring.summary import shown

    size = options.part_rows
    sizes = {} if size is None else {"rows_per_part": size, "users_per_part": size}
    try:
        job = Job(
            options.bundle,
            options.data,
            options.out,
            sources=_sources(options.source),
            settings=Settings(
                key_columns=tuple(n.strip() for n in options.columns.split(",") if n.strip()),
                places=options.k,
                precision=options.precision,
                **sizes,
            ),
            share=_share(options.part) if options.part else share_of_environment() or (0, 1),
            num_workers=options.workers,
            rejects=options.on_error == "reject",
        )
        if options.dry_run:
            from recsys.scoring.dry_run import describe

            for line in describe(job):
                print(line)
            return 0
        summary = score(job)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; run again to go on: finished parts are in {options.out}", file=sys.stderr)
        return 130
    if summary is None:
        print(f"share {job.share[0]}/{job.share[1]} is done; others have parts to score")
        return 0
    for line in shown(summary):
        print(line)
    print(f"scored {summary['rows']['written']:,} rows into {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m recsys score", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="what `export` made")
    parser.add_argument(
        "data",
        metavar="DATA",
        help="folder of raw Parquet files, or the event log itself: a file or a quoted glob",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to make, or to go on with"
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="file, folder, glob or URL in place of that of the feature file; may be repeated",
    )
    parser.add_argument(
        "--columns", default="", metavar="A,B", help="raw columns to repeat beside the scores"
    )
    parser.add_argument(
        "-k", "--k", type=int, default=10, help="items per user, for sequence models"
    )
    parser.add_argument(
        "--part-rows", type=int, metavar="N", help="rows of a part (262144), or users (8192)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes")
    parser.add_argument(
        "--part", metavar="i/n", help="job i of n, from 0, that score into the same folder"
    )
    parser.add_argument(
        "--on-error", choices=("stop", "reject"), default="stop", help="rows that cannot be scored"
    )
    parser.add_argument(
        "--precision", choices=("float32", "bf16"), default="float32", help="of dense layers"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    return parser


def _sources(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in found:
            raise RunConfigError(
                f"--source: is no NAME=PATH, or names a source again, got {text!r}; give each "
                f"source once, as in --source events=log/"
            )
        found[name] = path
    return found


def _share(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    share = (int(match[1]), int(match[2])) if match else (1, 0)
    if share[0] >= share[1]:
        of = share[1] if match and share[1] else 4
        raise RunConfigError(
            f"--part: is no share, got {text!r}; allowed 0/{of} ... {of - 1}/{of}; jobs are "
            f"numbered from 0"
        )
    return share
