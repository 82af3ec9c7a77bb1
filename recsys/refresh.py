"""Carries a run over to newer data under the same feature file: new values get rows.

What is known keeps its rows and their state; values that were not seen for long may leave. Moments
and boundaries stay as they were fitted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from features.edits.continuing import continue_schema
from features.edits.expiry import expired_values, parse_span
from features.errors import FeatureConfigError, RecsysError
from features.load import load_feature_set
from features.plans import plan_files
from features.sources import scan_events
from features.spec import FeatureSet
from recsys.checkpoint import find_checkpoint, read_manifest, read_schema
from recsys.migrate import add_arguments, show
from recsys.migration.filling import TableReport
from recsys.migration.migration import Migration
from recsys.migration.run import fitted_to, migrated, write_run
from recsys.new_folder import check_out

_FILE = "features.yaml"


def refresh(
    checkpoint: Path, data: Path, out: Path, *, expire: str | None = None
) -> tuple[Migration, dict[str, TableReport]]:
    """Write a run that has learned what a checkpoint has, and knows the values of newer data.

    Args:
        checkpoint: Directory of a checkpoint.
        data: Directory of the raw files.
        out: Folder to make.
        expire: Values without an event in such a span before the latest one do not come in, and
            leave where only full tables read them, as `90d` or `12h`. None: all come, none leave.

    Raises:
        RecsysError: something is wrong; nothing is written.
    """
    check_out(out)
    read_manifest(checkpoint)
    span = None if expire is None else parse_span(expire)
    old = read_schema(checkpoint)
    fitted = fitted_to(old.feature_set, data)
    expired = {}
    if span is not None:
        assert fitted is not None, "there is data"
        events = scan_events(old.feature_set, data)
        expired = expired_values(old, events, fitted=fitted, older_than=span)
    schema = continue_schema(old, old.feature_set, fitted=fitted, expired=expired)
    migration = migrated(checkpoint, schema, resets=(), data=data)
    contents = _feature_files(checkpoint, old.feature_set)
    more = {"data": str(data), "expire": expire}
    return migration, write_run(migration, out, features=contents, more=more)


def _feature_files(checkpoint: Path, feature_set: FeatureSet) -> dict[str, bytes]:
    """The feature file of a run with its plans; as the schema has it, where no run is around."""
    folder = checkpoint.parent.parent
    try:
        is_here = load_feature_set(folder / _FILE) == feature_set
    except FeatureConfigError:
        is_here = False
    if not is_here:
        text = feature_set.model_dump_json(indent=1, exclude_none=True)  # JSON is YAML
        return {_FILE: f"# As the schema of {checkpoint.name} has it.\n{text}\n".encode()}
    files = [folder / _FILE, *plan_files(feature_set, folder).values()]
    return {file.name: file.read_bytes() for file in files}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        "python -m recsys refresh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--data", type=Path, required=True, help="directory of the raw files")
    parser.add_argument("--expire", metavar="SPAN", help="let values go unseen so long, as 90d")
    options = parser.parse_args(arguments)
    try:
        checkpoint = find_checkpoint(options.run, which=options.checkpoint)
        migration, reports = refresh(checkpoint, options.data, options.out, expire=options.expire)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    show(migration, reports, out=options.out)
    return 0
