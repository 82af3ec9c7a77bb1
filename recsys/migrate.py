"""Carries what a run has learned over to an edited feature file: a new run to continue from.

Rows follow their raw ids with the optimiser's state, layers follow their inputs by name. What
cannot be kept is refused until it is given up by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from features.edits.continuing import continue_schema
from features.edits.report import difference_tables
from features.errors import RecsysError
from features.load import load_feature_set
from features.plans import plan_files, with_plans
from recsys.checkpoint import find_checkpoint, read_manifest, read_schema
from recsys.migration.filling import TableReport
from recsys.migration.migration import LAYERS, Migration
from recsys.migration.report import tables_to_print, words
from recsys.migration.run import fitted_to, migrated, write_run
from recsys.new_folder import check_out


def migrate(
    checkpoint: Path,
    features: Path,
    out: Path,
    *,
    data: Path | None = None,
    resets: Sequence[str] = (),
) -> tuple[Migration, dict[str, TableReport]]:
    """Write a run that has learned what a checkpoint has, under an edited feature file.

    Args:
        checkpoint: Directory of a checkpoint.
        features: The edited feature file.
        out: Folder to make.
        data: Directory of the raw files, for what must be fitted.
        resets: Tables and features that begin anew, and `dense` for layers that cannot follow.

    Raises:
        RecsysError: something is wrong; nothing is written.
    """
    check_out(out)
    read_manifest(checkpoint)
    feature_set = load_feature_set(features)
    fitted = fitted_to(feature_set, data)
    schema = continue_schema(read_schema(checkpoint), feature_set, fitted=fitted)
    schema = with_plans(schema, features.parent)
    migration = migrated(checkpoint, schema, resets=resets, data=data)
    plans = plan_files(feature_set, features.parent).values()
    contents = {"features.yaml": features.read_bytes()}
    contents |= {plan.name: plan.read_bytes() for plan in plans}
    reports = write_run(migration, out, features=contents, more={"features": str(features)})
    return migration, reports


def show(migration: Migration, reports: dict[str, TableReport], *, out: Path) -> None:
    """Print what was done, and what comes next."""
    console = Console(highlight=False)
    for table in [*difference_tables(migration.difference), tables_to_print(migration, reports)]:
        console.print(table, "")
    print("\n".join(words(migration, reports)))
    features = out / "features.yaml"
    print(
        f"{out}: written; continue with `train.py fit -c ... --data.features {features} "
        f"--run.continue_from {out}`"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `migrate` and `refresh` have in common."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run or of a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new run")
    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        help="of the run; the best one, or else the last, where it is left out",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        "python -m recsys migrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--features", type=Path, required=True, help="the edited feature file")
    parser.add_argument("--data", type=Path, help="directory of the raw files, for new features")
    parser.add_argument(
        "--reset",
        action="append",
        default=[],
        metavar="NAME",
        help=f"table or feature that begins anew, or `{LAYERS}`: layers that cannot follow",
    )
    options = parser.parse_args(arguments)
    try:
        migration, reports = migrate(
            find_checkpoint(options.run, which=options.checkpoint),
            options.features,
            options.out,
            data=options.data,
            resets=options.reset,
        )
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    show(migration, reports, out=options.out)
    return 0
