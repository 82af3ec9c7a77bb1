"""`python -m recsys init EVENTS [ATTRIBUTES ...] -o FILE`: a first feature file, and a run file."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from features.errors import RecsysError, RunConfigError
from features.infer.names import yaml_text
from features.infer.proposal import Proposal, infer
from features.infer.text import feature_text
from features.load import parse_feature_set

ROLES = ("label", "user", "item", "time")
_BATCH_SIZES = ((20_000, 128), (500_000, 1024), (10_000_000, 4096))
_LARGEST_BATCH = 16_384
_EPOCHS = ((100_000, 10), (2_000_000, 5))
_LARGE_CATALOGUE = 50_000  # items from which on scoring all of them at each step costs too much


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    options = _parser().parse_args(arguments)
    out: Path = options.out
    experiment: Path = options.experiment or _experiment_beside(out)
    asked = {role: column for role in ROLES if (column := getattr(options, role)) is not None}
    try:
        _check_free((out, experiment), force=options.force)
        proposal = infer(options.files, task=options.task, asked=asked)
        text = feature_text(proposal)
        if (out.parent / "schema.json").is_file():
            text = f"# yaml-language-server: $schema=schema.json\n{text}"
        parse_feature_set(text, name=str(out))
        _write(out, text)
        _write(experiment, experiment_text(proposal, features=out, experiment=experiment))
    except RecsysError as error:
        for mistake in error.mistakes:
            print(mistake, file=sys.stderr)
        return 2
    num_guesses = text.count("guess: ")
    print(f"{out}: {len(proposal.features)} features, {num_guesses} guesses to read")
    print(f"{experiment}: a run of it\nnext:")
    for command in next_commands(proposal, features=out, experiment=experiment):
        print(f"  {command}")
    return 0


def experiment_text(proposal: Proposal, *, features: Path, experiment: Path) -> str:
    """A run file with plain settings: the data, a model that fits the task, a few epochs.

    Args:
        proposal: What was found.
        features: The feature file.
        experiment: Where the run file will lie.
    """
    num_rows = proposal.events.num_rows
    epochs = next((epochs for most, epochs in _EPOCHS if num_rows <= most), 2)
    if proposal.task == "ranking":
        batch_size = next((size for most, size in _BATCH_SIZES if num_rows <= most), _LARGEST_BATCH)
        model = (
            "  class_path: RankingTask\n"
            "  init_args:\n"
            "    ranker: {class_path: DCNv2, init_args: {num_cross_layers: 2, mlp: [64, 32]}}\n"
        )
        kind = "a click ranker, DCNv2"
    else:
        assert proposal.item is not None
        num_items = proposal.events.columns[proposal.item.column].num_distinct
        batch_size, epochs = 128, 2 * epochs
        is_large = num_items > _LARGE_CATALOGUE
        loss = (
            "    loss: {class_path: SampledSoftmax, init_args: {num_negatives: 512}}\n"
            if is_large
            else ""
        )
        model = (
            "  class_path: SequenceTask\n"
            "  init_args:\n"
            "    encoder: {class_path: SASRec, init_args: {num_blocks: 2, dropout: 0.2}}\n" + loss
        )
        kind = "the next item, SASRec"
    return (
        f"# {features.name}: {kind}. Written by `python -m recsys init`, with settings to begin "
        f"with.\n"
        f"# python train.py fit -c {shlex.quote(str(experiment))}\n"
        f"data:\n"
        f"  features: {yaml_text(str(features))}\n"
        f"  data_dir: {yaml_text(_shown(proposal.data_dir))}\n"
        f"  batch_size: {batch_size}\n"
        f"model:\n{model}"
        f"    optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 1.0e-3, fused: true}}}}\n"
        f"run: {{patience: 2}}\n"
        f"trainer: {{max_epochs: {epochs}}}\n"
    )


def next_commands(proposal: Proposal, *, features: Path, experiment: Path) -> list[str]:
    """What a person types after this, in order.

    Args:
        proposal: What was found.
        features: The feature file.
        experiment: The run file.
    """
    file, run_file = shlex.quote(str(features)), shlex.quote(str(experiment))
    data = shlex.quote(_shown(proposal.data_dir))
    run = shlex.quote(f"runs/{experiment.stem}")
    return [
        f"python -m features check {file} --data {data}",
        f"python train.py fit -c {run_file}",
        f"python -m recsys export {run} --out {run}/bundle",
        f"python -m recsys score {run}/bundle {data} --out {run}/scores",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m recsys init",
        description="Write a first feature file, and a run file for it, from Parquet files.",
    )
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="PARQUET",
        help="the events; then more files of events, and tables of attributes, in any order",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="YAML", help="feature file to write"
    )
    parser.add_argument(
        "--experiment",
        type=Path,
        metavar="YAML",
        help="run file to write; default: of the same name in experiment/ beside features/, or "
        "NAME_run.yaml beside the feature file",
    )
    parser.add_argument(
        "--task",
        choices=("ranking", "sequence"),
        default="ranking",
        help="ranking (default): a label for each event; sequence: the next item of each user",
    )
    for role in ROLES:
        parser.add_argument(f"--{role}", metavar="COLUMN", help=f"the {role}, instead of a guess")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser


def _experiment_beside(out: Path) -> Path:
    if out.parent.name == "features":
        return out.parent.parent / "experiment" / out.name
    return out.with_name(f"{out.stem}_run{out.suffix}")


def _check_free(files: Sequence[Path], *, force: bool) -> None:
    mistakes = [
        f"{file}: must be called NAME.yaml; choose such a name"
        for file in files
        if file.suffix not in (".yaml", ".yml") or file.is_dir()
    ]
    if files[0] == files[1]:
        mistakes.append(f"{files[0]}: cannot be feature file and run file at once; name two files")
    if not force:
        mistakes += [
            f"{file}: exists already; choose another name, or overwrite it with --force"
            for file in files
            if file.exists()
        ]
    if mistakes:
        raise RunConfigError(mistakes)


def _write(file: Path, text: str) -> None:
    """The file appears under its name only when complete."""
    unfinished = file.with_name(file.name + ".unfinished")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        raise RunConfigError(
            f"{file}: cannot be written: {error.strerror}; give another path"
        ) from None


def _shown(folder: Path) -> str:
    """Relative to the present folder where it lies below it."""
    here = Path.cwd().resolve()
    if folder.is_relative_to(here):
        return os.path.relpath(folder, here)
    return str(folder)
