"""`python -m recsys plan -c EXPERIMENT`: do the tables of a run fit, and where do they come to lie?

Decides as training does, for hardware that need not be here. The exit status is 0 where all fits, 1
where it does not, 2 where there is a mistake.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from features.errors import RecsysError, RunConfigError
from recsys.training.further_options import unknown_options

if TYPE_CHECKING:
    from recsys.planning.advice import Planned
    from recsys.tables.placement import Placement

MISTAKE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    options, more = _parser().parse_known_args(arguments)
    try:
        _check_options(more)
        return _run(options, more)
    except RecsysError as error:
        for mistake in error.mistakes:
            print(mistake, file=sys.stderr)
        return MISTAKE


def _run(options: argparse.Namespace, more: Sequence[str]) -> int:
    import models  # noqa: F401  so that a configuration can name them, as the tasks below
    from recsys.data.loader import check_sizes
    from recsys.planning.advice import Planned, what_fits
    from recsys.planning.machines import Wanted, wanted_hardware
    from recsys.training.cli import UntrainedRun, start
    from recsys.training.ranking import RankingTask  # noqa: F401
    from recsys.training.sequence import SequenceTask  # noqa: F401

    files = [part for file in options.config for part in ("-c", file)]
    run = start(UntrainedRun, args=["fit", *files, *more], log=sys.stderr)
    wanted = Wanted(
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        gpu_memory=options.gpu_memory,
        cpu_memory=options.cpu_memory,
    )
    hardware = wanted_hardware(wanted, trainer=run.trainer_settings)
    data, world_size = run.datamodule, hardware.world_size
    check_sizes(data.batch_size, data.num_lanes, world_size=world_size, training=True)
    planned = Planned(run.model, hardware, data.batch_size // world_size)
    placement = planned.placement()
    embedder = run.model.embedder
    advice = [] if placement.fits else what_fits(planned, placement)
    run.model.embedder = embedder
    _show(planned, placement, source=run.schema_source, advice=advice, as_json=options.json)
    return 0 if placement.fits else 1


def _show(
    planned: Planned, placement: Placement, *, source: str, advice: list[str], as_json: bool
) -> None:
    from recsys.planning.report import hardware_in_words, plan_json, plan_tables
    from recsys.tables.overfull import too_large

    embedder, problems = planned.task.embedder, too_large(placement)
    if as_json:
        content: dict[str, Any] = plan_json(placement, embedder)
        content |= {"schema": source, "problems": problems, "advice": advice}
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(hardware_in_words(planned.hardware), markup=False, soft_wrap=True)
    console.print(f"schema: {source}", markup=False, soft_wrap=True)
    for table in plan_tables(placement, embedder):
        console.print()
        console.print(table)
    console.print(f"\nabout {placement.step_ms():.2f} ms of a step are for sharded tables")
    if placement.fits:
        console.print("it fits")
        return
    for line in (*problems, *_list(advice)):
        console.print(line, markup=False, soft_wrap=True)


def _list(advice: list[str]) -> list[str]:
    if not advice:
        return ["no single change of the run file would make it fit"]
    return ["each of these makes it fit:", *(f"- {words}" for words in advice)]


def _check_options(more: Sequence[str]) -> None:
    if mistakes := unknown_options(more, verb="plan", example="--trainer.devices"):
        raise RunConfigError(mistakes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recsys plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Further options go to train.py fit, for example --trainer.devices 2.",
    )
    add = parser.add_argument
    add("-c", "--config", action="append", required=True, metavar="EXPERIMENT", help="run file")
    add("--nodes", type=int, metavar="N", help="machines; else trainer.num_nodes")
    add("--gpus-per-node", type=int, metavar="N", help="GPUs of each; else trainer.devices")
    add("--gpu-memory", metavar="SIZE", help="of a GPU, as 80GiB; else of the one that is here")
    add("--cpu-memory", metavar="SIZE", help="of a machine, as 1TiB; else of this one")
    add("--json", action="store_true", help="print one JSON object")
    return parser
