"""Train tables in stages: `python -m recsys search -c EXPERIMENT --out FOLDER`.

    FOLDER/1_warm_up/    a run: the tables as the feature file says
    FOLDER/2_compress/   features.yaml with planned tables, and their plans
    FOLDER/3_retrain/    a run of that feature file; export it like any other

The same command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from features.errors import RecsysError, RunConfigError
from features.load import load_feature_set
from features.spec import FeatureSet
from features.table_spec import StagedTable
from recsys.search.compare import features_of, several_experiments
from recsys.search.compress import COMPRESSED, compress, staged_scheme
from recsys.search.evolution import EvolutionConfig
from recsys.search.out_folder import check_inputs
from recsys.search.outcome import outcome_lines
from recsys.search.stages import Stages
from recsys.tables.staged import SearchedScheme, StagedScheme
from recsys.training.further_options import unknown_options

WARM_UP, COMPRESS, RETRAIN = "1_warm_up", "2_compress", "3_retrain"
_EXAMPLES = 20_000
_OF_RUN = ("name", "root", "warm_up", "start_from", "continue_from", "resume")
_DECIDED = ("--data.features", *(f"--run.{name}" for name in _OF_RUN))


def search(
    stages: Stages,
    *,
    evolution: EvolutionConfig,
    max_examples: int,
    warm_up_epochs: int | None = None,
) -> None:
    """Warm up, compress, retrain; what is done already is not done again.

    Args:
        stages: Of an experiment whose feature file has tables that are trained in stages.
        evolution: How widths are searched, where the tables need them.
        max_examples: Validation rows at most, by which widths are judged.
        warm_up_epochs: Most epochs of the first training. None: as the experiment says.

    Raises:
        RecsysError: the feature file has no such tables, a training failed, or the folder is that
            of another search.
    """
    features = features_of(stages.experiment)
    kind = _kind(load_feature_set(features), name=str(features))
    if not issubclass(kind, SearchedScheme):
        _check_no_search(evolution, max_examples=max_examples, name=str(features))
    with stages.alone():
        choices = {
            **asdict(evolution),
            "max_examples": max_examples,
            "warm_up_epochs": warm_up_epochs,
        }
        inputs = {
            "experiment": stages.experiment.read_text(),
            "features": features.read_text(),
            "arguments": list(stages.arguments),
            "choices": choices,
        }
        check_inputs(stages.directory, inputs, work="search")
        first = ["--run.warm_up", "true", "--run.test", "false"]
        if warm_up_epochs is not None:
            first += ["--trainer.max_epochs", str(warm_up_epochs)]
        stages.fit(WARM_UP, features, *first)
        best = stages.directory / WARM_UP / "checkpoints" / f"{kind.takes}.ckpt"
        compress(best, stages.directory / COMPRESS, evolution=evolution, max_examples=max_examples)
        start = ("--run.start_from", str(best)) if kind.keeps_network else ()
        stages.fit(RETRAIN, stages.directory / COMPRESS / COMPRESSED, *start)


def _kind(feature_set: FeatureSet, *, name: str) -> type[StagedScheme]:
    """The one kind of tables that are trained in stages."""
    staged = {n: t for n, t in feature_set.tables.items() if isinstance(t, StagedTable)}
    kinds = {table.scheme: staged_scheme(table) for table in staged.values()}
    if len(kinds) != 1:
        got = ", ".join(f"{n}: {t.scheme}" for n, t in staged.items()) or "none"
        raise RunConfigError(
            f"{name}: a search needs tables that are trained in stages, all of one scheme, got "
            f"{got}; change scheme in tables of the feature file"
        )
    return next(iter(kinds.values()))


def _check_no_search(evolution: EvolutionConfig, *, max_examples: int, name: str) -> None:
    """Refuse options of a search among widths for tables that are compressed by other rules."""
    usual = {**asdict(EvolutionConfig()), "max_examples": _EXAMPLES}
    given = {**asdict(evolution), "max_examples": max_examples}
    others = [f"--{option} {value}" for option, value in given.items() if value != usual[option]]
    if others:
        raise RunConfigError(
            f"{name}: only tables of scheme optembed are searched for widths, got "
            f"{', '.join(others)}; drop these options, and give the size in `budget` of the table"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        "python -m recsys search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Further options go to train.py fit, for example --seed_everything 1.",
    )
    add = parser.add_argument
    add("-c", dest="config", type=Path, action="append", required=True, metavar="EXPERIMENT")
    add("--out", type=Path, required=True, metavar="FOLDER", help="of the stages")
    add("--max_examples", type=int, default=_EXAMPLES, help="validation rows that judge widths")
    add("--warm_up_epochs", type=int, metavar="N", help="most epochs of the first training")
    for field in fields(EvolutionConfig):
        add(f"--{field.name}", type=type(field.default), default=field.default, help="of widths")
    options, more = parser.parse_known_args(arguments)
    try:
        _check_options(options, more)
        names = [field.name for field in fields(EvolutionConfig)]
        evolution = EvolutionConfig(**{name: getattr(options, name) for name in names})
        stages = Stages(options.config[0], options.out.resolve(), arguments=tuple(more))
        search(
            stages,
            evolution=evolution,
            max_examples=options.max_examples,
            warm_up_epochs=options.warm_up_epochs,
        )
        print("\n".join(outcome_lines(stages.directory / WARM_UP, stages.directory / RETRAIN)))
        return 0
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2


def _check_options(options: argparse.Namespace, more: Sequence[str]) -> None:
    mistakes = unknown_options(
        more, verb="search", example="--trainer.max_epochs", decided=_DECIDED
    )
    mistakes += several_experiments(options.config)
    if options.max_examples < 1:
        mistakes.append(
            f"--max_examples: is too small, got {options.max_examples}; allowed 1 and more"
        )
    if mistakes:
        raise RunConfigError(mistakes)
