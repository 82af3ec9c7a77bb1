"""A checkpoint becomes a bundle: `python -m recsys export RUN --out BUNDLE`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from features.errors import RecsysError, RunConfigError
from features.sizes import format_bytes
from recsys.bundle import CARD, SEARCH, TABLES, BundleManifest, write_manifest
from recsys.checkpoint import find_checkpoint, read_manifest
from recsys.exporting.alignment import OPTION, Alignment, align
from recsys.exporting.card import render_card
from recsys.exporting.files import Origin, write_files
from recsys.exporting.parity import (
    MAX_DROP,
    Outputs,
    Parity,
    check_drop,
    check_exact,
    compare,
    outputs_of_bundle,
    outputs_of_task,
)
from recsys.exporting.portable import SUFFIXES, Kind, check_tools, write_program
from recsys.exporting.sample import Sample, sample_of_run, unseen_shares
from recsys.new_folder import check_out, new_folder
from recsys.scoring.scorer import Scorer
from recsys.tables.few_bits import TableDType
from recsys.trained import load_task
from recsys.training.sequence import SequenceTask
from recsys.training.task import Task


@dataclass(frozen=True)
class Settings:
    """How to export.

    Attributes:
        table_dtype: Of tables that are stored row for row.
        max_drop: By how much a metric may get worse by it. None: `MAX_DROP`.
        programs: Other forms to write the programs in.
        is_checked: Whether to compare the bundle with the model, on the run's data.
        width: First numbers to keep of a sequence model's vectors of users and items. None: all.
        compatible_with: Older bundle whose space these are turned into. None: none.
    """

    table_dtype: TableDType = "fp32"
    max_drop: float | None = None
    programs: tuple[Kind, ...] = ()
    is_checked: bool = True
    width: int | None = None
    compatible_with: Path | None = None


def export(checkpoint: Path, bundle: Path, *, settings: Settings = Settings()) -> BundleManifest:
    """Write a bundle; it appears under its name only when it is complete, and scores as the model.

    Args:
        checkpoint: Directory of a checkpoint.
        bundle: Directory to make.
        settings: How.

    Raises:
        OutputError: the bundle cannot be made.
        RunConfigError: the bundle exists already, nothing is held to the largest drop, a program
            has no other form, the width is none of the model's, or the older bundle has other
            vectors or no item in common.
        SchemaMismatchError: the older bundle is none, or is not whole.
        CheckpointMismatchError: the checkpoint does not fit its own configuration, or the bundle
            does not score as the model does.
        RecsysError: the run's data is gone, or has changed.
    """
    check_out(bundle)
    _check_max_drop(settings)
    check_tools(settings.programs)
    manifest = read_manifest(checkpoint)
    task = load_task(checkpoint, manifest)
    _check_width(task, settings.width)
    alignment: Alignment | None = None
    if settings.compatible_with is not None:
        alignment = align(task, settings.compatible_with, width=settings.width)
    sample = sample_of_run(checkpoint, manifest, reads=task.reads) if settings.is_checked else None
    origin = Origin(checkpoint.resolve().parent.parent.name, manifest.step, manifest.metrics)
    with new_folder(bundle) as partial:
        written = write_files(
            task,
            partial,
            origin=origin,
            table_dtype=settings.table_dtype,
            width=settings.width,
            alignment=alignment,
        )
        described = written.manifest
        if sample is not None:
            parity = _checked(task, Scorer(partial), sample, settings)
            described = replace(
                described,
                parity=parity.to_content(split=sample.split),
                score_histogram=parity.histogram or None,
                unseen=unseen_shares(task.schema, sample.batches) if parity.histogram else None,
            )
        for kind in settings.programs:
            _add_programs(partial, task, sample, kind=kind)
        card = render_card(task, described, table_bytes=written.table_bytes)
        (partial / CARD).write_text(card, encoding="utf-8")
        write_manifest(partial, described)
    return described


def _check_max_drop(settings: Settings) -> None:
    if settings.max_drop is None:
        return
    if settings.table_dtype == "fp32":
        raise RunConfigError(
            f"--max-drop: is for tables in fewer bits, got {settings.max_drop:g} and fp32; allowed "
            f"{', '.join(MAX_DROP)}; set --table-dtype, or leave it out"
        )
    if not settings.is_checked:
        raise RunConfigError(
            f"--max-drop: limits what the comparison finds, got {settings.max_drop:g} and "
            f"--unchecked; leave one of them out"
        )


def _check_width(task: Task, width: int | None) -> None:
    if width is None:
        return
    if not isinstance(task, SequenceTask):
        raise RunConfigError(
            f"--width: is of sequence models, got {width} for a ranking one; leave it out"
        )
    full = task.widths[-1]
    if not 1 <= width <= full:
        raise RunConfigError(
            f"--width: is no width of the vectors, got {width}; allowed 1 to {full}; those that "
            f"were trained for are {', '.join(map(str, sorted(task.widths)))}"
        )


def _checked(task: Task, scorer: Scorer, sample: Sample, settings: Settings) -> Parity:
    """How the bundle compares with the model."""
    parity = compare(
        outputs_of_task(task, width=settings.width),
        outputs_of_bundle(scorer),
        sample,
        labels=scorer.manifest.labels,
    )
    if settings.table_dtype == "fp32":
        check_exact(parity, task=task, what="the bundle")
    else:
        check_drop(parity, dtype=settings.table_dtype, max_drop=settings.max_drop)
    return parity


def _add_programs(directory: Path, task: Task, sample: Sample | None, *, kind: Kind) -> None:
    """Write the programs another way, and compare with the bundle as it is."""
    scorer = Scorer(directory)
    expected = outputs_of_bundle(Scorer(directory))
    for file in sorted(directory.glob("*.pt2")):
        name = file.name.partition(".")[0]
        if file.name != f"{name}.pt2":  # another form
            continue
        other = write_program(
            torch.export.load(file), directory / (name + SUFFIXES[kind]), kind=kind
        )
        if file.name == SEARCH:
            assert scorer.search is not None, "its program is there"
            scorer.search = replace(scorer.search, program=other)
        else:
            scorer.program = other
    if sample is not None:
        _check_program(task, expected, scorer, sample, kind=kind)


def _check_program(
    task: Task, expected: Outputs, scorer: Scorer, sample: Sample, *, kind: Kind
) -> None:
    """Refuse a form that scores otherwise; of tables in fewer bits, those of the bundle count."""
    if scorer.manifest.table_dtype == "fp32":
        expected = outputs_of_task(task, width=scorer.manifest.width)
    parity = compare(expected, outputs_of_bundle(scorer), sample, labels=scorer.manifest.labels)
    check_exact(parity, task=task, what=f"--{kind}")


def _shown(bundle: Path, manifest: BundleManifest) -> Iterator[str | Table]:
    """What to print."""
    size = format_bytes((bundle / TABLES).stat().st_size)
    yield f"exported {bundle}: tables in {manifest.table_dtype}, {size}"
    if (aligned := manifest.compatible_with) is not None:
        yield (
            f"turned into the space of bundle {aligned['bundle']}: fitted on "
            f"{aligned['num_items']:,} of its {aligned['num_older_items']:,} items, mean cosine "
            f"{aligned['cosine']:.4f}"
        )
        if aligned["num_items"] < (manifest.width or 0):
            yield (
                f"warning: {aligned['num_items']:,} items do not determine how vectors of "
                f"{manifest.width} numbers are turned"
            )
    parity = manifest.parity
    if parity is None:
        yield "warning: it was not compared with the model (--unchecked)"
        return
    yield (
        f"compared on {parity['num_rows']:,} rows ({parity['split']}): scores are at most "
        f"{parity['largest_difference']:.2g} apart"
    )
    if not parity["before"]:
        yield "no metrics: no row of them has a label"
        return
    table = Table("metric", "model", "bundle")
    for name, before in parity["before"].items():
        table.add_row(name, f"{before:.5f}", f"{parity['after'][name]:.5f}")
    yield table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser("python -m recsys export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run or of a checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to make")
    parser.add_argument(
        "--table-dtype",
        choices=get_args(TableDType),
        default="fp32",
        help="bits of the tables' numbers",
    )
    limits = ", ".join(f"{limit:g} for {dtype}" for dtype, limit in MAX_DROP.items())
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="X",
        help=f"most that AUC or NDCG may lose, and logloss gain, by --table-dtype; else {limits}",
    )
    parser.add_argument("--onnx", action="store_true", help="the programs for ONNX Runtime too")
    parser.add_argument("--aoti", action="store_true", help="the programs compiled, by C++, too")
    parser.add_argument(
        "--unchecked", action="store_true", help="do not compare with the model on the run's data"
    )
    parser.add_argument(
        "--width", type=int, metavar="N", help="first numbers of vectors to keep; sequence models"
    )
    parser.add_argument(
        OPTION,
        type=Path,
        metavar="OLD_BUNDLE",
        help="turn vectors into the space of an older bundle's, whose index stays; sequence models",
    )
    options = parser.parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    kinds: tuple[Kind, ...] = ("onnx",) * options.onnx + ("aoti",) * options.aoti
    settings = Settings(
        table_dtype=options.table_dtype,
        max_drop=options.max_drop,
        programs=kinds,
        is_checked=not options.unchecked,
        width=options.width,
        compatible_with=options.compatible_with,
    )
    try:
        manifest = export(find_checkpoint(options.run), options.out, settings=settings)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for line in _shown(options.out, manifest):
        console.print(line)
    return 0
