"""`python -m features check | fit | schema`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from features.errors import RecsysError

MISTAKE = 2


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 2 if there are mistakes to mend.

    Args:
        arguments: Of the command line. None: those of this process.
    """
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "check":
                _check(options.file, data_dir=options.data)
            case "fit":
                _fit(options.file, data_dir=options.data, out=options.out)
            case "schema":
                _schema(options.out)
    except RecsysError as error:
        for mistake in error.mistakes:
            print(mistake, file=sys.stderr)
        return MISTAKE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m features", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say all that is wrong, or what there is")
    check.add_argument("file", type=Path, help="feature file")
    check.add_argument("--data", type=Path, help="also check the data below this directory")
    fit = commands.add_parser("fit", help="fit vocabularies and statistics to data")
    fit.add_argument("file", type=Path, help="feature file")
    fit.add_argument("--data", type=Path, required=True, help="directory of the data")
    fit.add_argument("--out", type=Path, required=True, help="directory to write the schema to")
    schema = commands.add_parser("schema", help="write the JSON Schema of feature files")
    schema.add_argument("--out", type=Path, default=Path("configs/features/schema.json"))
    return parser


def _check(file: Path, *, data_dir: Path | None) -> None:
    from rich.console import Console

    from features.check import fit_file, report
    from features.load import load_feature_set

    feature_set = load_feature_set(file)
    schema = None if data_dir is None else fit_file(feature_set, data_dir)
    console = Console()
    for table in report(feature_set, schema):
        console.print(table)


def _fit(file: Path, *, data_dir: Path, out: Path) -> None:
    from features.check import fit_file
    from features.load import load_feature_set
    from features.storage import save_schema

    schema = fit_file(load_feature_set(file), data_dir)
    save_schema(schema, out)
    print(f"{out}: schema {schema.fingerprint()}")


def _schema(out: Path) -> None:
    from features.json_schema import schema_text

    out.write_text(schema_text(), encoding="utf-8")
    print(out)


if __name__ == "__main__":
    sys.exit(main())
