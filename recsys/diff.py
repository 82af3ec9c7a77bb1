"""`python -m recsys diff OLD NEW`: what an edit of a feature file means for what was learned.

OLD and NEW are feature files, folders of runs, checkpoints or bundles. The exit status is 0 where a
checkpoint fits as it is, 1 where it can be migrated, 2 where something must be given up by name, or
where there is a mistake.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from features.edits.continuing import needing_data
from features.edits.diff import compare
from features.edits.report import difference_json, difference_tables, verdict
from features.errors import RecsysError, RunConfigError
from features.load import load_feature_set
from features.schema import FeatureSchema
from features.spec import FeatureSet
from features.storage import load_schema

MISTAKE = 2
_SCHEMA = "schema"
_OF_RUN = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")
_FEATURES = "features.yaml"


def main(arguments: list[str]) -> int:
    """Run the command; gives the exit code."""
    options = _parser().parse_args(arguments)
    try:
        old, new = _both(options.old, options.new)
        difference = compare(old, new)
    except RecsysError as error:
        for mistake in error.mistakes:
            print(mistake, file=sys.stderr)
        return MISTAKE
    needed = {}
    if isinstance(new, FeatureSet):
        needed = needing_data(old if isinstance(old, FeatureSet) else old.feature_set, new)
    if options.json:
        content = difference_json(difference, needs_data=needed)
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return difference.exit_code
    from rich.console import Console

    console = Console(highlight=False)
    for table in difference_tables(difference):
        console.print(table)
    for sentence in verdict(difference, needs_data=needed):
        console.print(sentence, markup=False, soft_wrap=True)
    return difference.exit_code


def read_side(path: Path, *, option: str) -> FeatureSet | FeatureSchema:
    """A feature file; or the fitted schema of a run's checkpoint, a checkpoint or a bundle.

    A run without checkpoints is its feature file.

    Args:
        path: Of the file or folder.
        option: What messages call it.

    Raises:
        RunConfigError: it is none of these.
        FeatureConfigError: the feature file is wrong.
        SchemaMismatchError: the schema is damaged.
    """
    if path.is_file():
        return load_feature_set(path)
    for folder in (path / _SCHEMA, path, *(path / name / _SCHEMA for name in _OF_RUN)):
        if (folder / "schema.json").is_file():
            return load_schema(folder)
    if (path / _FEATURES).is_file():
        return load_feature_set(path / _FEATURES)
    got = f"a folder without {_SCHEMA}/, {_FEATURES} or checkpoints/" if path.is_dir() else "none"
    raise RunConfigError(
        f"{option}: is no feature file, run, checkpoint or bundle, got {path} ({got}); give one of "
        f"these, such as configs/features/demo.yaml or runs/demo"
    )


def _both(old: Path, new: Path) -> tuple[FeatureSet | FeatureSchema, FeatureSet | FeatureSchema]:
    """Both sides, or the mistakes of both."""
    found: list[FeatureSet | FeatureSchema] = []
    mistakes: list[str] = []
    for path, option in ((old, "OLD"), (new, "NEW")):
        try:
            found.append(read_side(path, option=option))
        except RecsysError as error:
            mistakes += error.mistakes
    if mistakes:
        raise RunConfigError(mistakes)
    return found[0], found[1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recsys diff", description=__doc__)
    of = "feature file, or folder of a run, checkpoint or bundle"
    parser.add_argument("old", metavar="OLD", type=Path, help=of)
    parser.add_argument("new", metavar="NEW", type=Path, help=of)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
