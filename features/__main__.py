"""`python -m features check | fit | schema`."""

from __future__ import annotations

import argparse
import json
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
                _check(options)
            case "fit":
                _fit(options.file, data_dir=options.data, out=options.out)
            case "schema":
                _schema(options.out)
    except RecsysError as error:
        for mistake in error.mistakes:
            print(mistake, file=sys.stderr)
        if options.command == "check" and options.json:
            _print_mistakes(options, error)
        return MISTAKE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m features", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say all that is wrong, or what there is")
    check.add_argument("file", type=Path, help="feature file")
    check.add_argument("--data", type=Path, help="also check the data below this directory")
    check.add_argument(
        "--world-size", type=_whole, default=1, metavar="N", help="tell memory for N ranks"
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    fit = commands.add_parser("fit", help="fit vocabularies and statistics to data")
    fit.add_argument("file", type=Path, help="feature file")
    fit.add_argument("--data", type=Path, required=True, help="directory of the data")
    fit.add_argument("--out", type=Path, required=True, help="directory to write the schema to")
    schema = commands.add_parser("schema", help="write the JSON Schema of feature files")
    schema.add_argument("--out", type=Path, default=Path("configs/features/schema.json"))
    return parser


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return number


def _check(options: argparse.Namespace) -> None:
    from features.checking.result import as_json, check_file
    from features.load import load_feature_set

    feature_set = load_feature_set(options.file)
    result = check_file(feature_set, options.data, world_size=options.world_size)
    if options.json:
        print(json.dumps(as_json(result, file=options.file, data_dir=options.data), indent=2))
        return
    from rich.console import Console

    from features.checking.summaries import report
    from features.checking.words import STATE, collision_table, memory_table, warning_lines

    console = Console()
    for table in report(feature_set, result.schema):
        console.print(table)
    memory = memory_table(result)
    if memory is not None:
        console.print(memory)
        print(STATE)
    collisions = collision_table(result)
    if collisions is not None:
        console.print(collisions)
    for line in warning_lines(result):
        print(line)


def _print_mistakes(options: argparse.Namespace, error: RecsysError) -> None:
    from features.checking.result import mistakes_as_json

    found = mistakes_as_json(error.mistakes, file=options.file, data_dir=options.data)
    print(json.dumps(found, indent=2))


def _fit(file: Path, *, data_dir: Path, out: Path) -> None:
    from features.fit import fit_file
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
