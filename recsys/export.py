"""A checkpoint becomes a bundle: `python -m recsys export RUN --out BUNDLE`."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim

from features.errors import RecsysError, RunConfigError
from features.storage import save_schema
from recsys.bundle import (
    CARD,
    ITEM_BIAS,
    MODEL,
    SCHEMA,
    SEARCH,
    TABLES,
    BundleManifest,
    write_manifest,
)
from recsys.checkpoint import Manifest, read_manifest
from recsys.nn.searching_ranker import SearchingRanker
from recsys.nn.tokens import is_last
from recsys.protocols import SequenceEncoder
from recsys.tables.packing import packed
from recsys.tables.schemes import build_scheme
from recsys.trained import load_task, resolve_checkpoint
from recsys.training.ranking import RankingTask
from recsys.training.sequence import SequenceTask
from recsys.training.task import Task
from recsys.types import Embedded, History, Jagged

_VERSIONED = ("recsys", "torch", "torchrec", "polars", "polars-hash")


def export(checkpoint: Path, bundle: Path, *, width: int | None = None) -> None:
    """Write a bundle; it appears under its name only when complete.

    Args:
        checkpoint: Directory of a checkpoint.
        bundle: Directory to make.
        width: First numbers to keep of a sequence model's vectors of users and items. None: all.

    Raises:
        RunConfigError: the bundle exists already, or the width is none of the model's.
        CheckpointMismatchError: the checkpoint does not fit its own configuration.
    """
    if bundle.exists():
        raise RunConfigError(
            f"--out: exists already, got {bundle}; give another name, or remove it"
        )
    manifest = read_manifest(checkpoint)
    task = load_task(checkpoint, manifest)
    width = _checked_width(task, width)
    partial = bundle.with_name(bundle.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_schema(task.schema, partial / SCHEMA)
        save_file(embedder_tensors(task) | _item_bias(task), partial / TABLES)
        torch.export.save(_program(task, width=width), partial / MODEL)
        if isinstance(task, RankingTask) and (searching := task.searching) is not None:
            torch.export.save(_search_program(searching), partial / SEARCH)
        described = _describe(task, manifest, width=width)
        (partial / CARD).write_text(_card(described, task, checkpoint=checkpoint))
        write_manifest(partial, described)
        partial.rename(bundle)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _checked_width(task: Task, width: int | None) -> int | None:
    """Numbers to keep of a sequence model's vectors; None for other models."""
    if not isinstance(task, SequenceTask):
        if width is not None:
            raise RunConfigError(
                f"--width: is of sequence models, got {width} for a ranking one; leave it out"
            )
        return None
    full = task.widths[-1]
    if width is not None and not 1 <= width <= full:
        raise RunConfigError(
            f"--width: is no width of the vectors, got {width}; allowed 1 to {full}; those that "
            f"were trained for are {', '.join(map(str, sorted(task.widths)))}"
        )
    return full if width is None else width


def _item_bias(task: Task) -> dict[str, Tensor]:
    """What is added to the score of each item, where the encoder has such a thing."""
    bias_V = task.encoder.item_bias_V if isinstance(task, SequenceTask) else None
    return {} if bias_V is None else {ITEM_BIAS: bias_V.detach().contiguous()}


def embedder_tensors(task: Task) -> dict[str, Tensor]:
    """What the embedder of the bundle is filled with."""
    return packed(task.embedder)


# ------------------------------------------------------------------------------- the program
class RankingProgram(nn.Module):
    """Fields, histories and dense features in, probabilities out.

    Of a ranker that searches, it reads the events that search has kept, and their ages.
    """

    def __init__(self, task: RankingTask) -> None:
        super().__init__()
        self.ranker = task.ranker
        self.names = list(task.layout.fields)
        self.sequence_names = list(task.layout.sequences)
        searching = task.searching
        self.cut = [] if searching is None else [searching.columns.sequence]

    def forward(
        self,
        fields: list[Tensor],
        sequences: list[Tensor],
        lengths: list[Tensor],
        dense_BN: Tensor,
        ages: list[Tensor],
    ) -> Tensor:
        """Give probabilities (B, T).

        Args:
            fields: Vectors (B, width), in the order of the layout.
            sequences: Vectors (L, width) of all events, packed.
            lengths: Events of each example, (B,), by sequence.
            dense_BN: Dense and vector features.
            ages: How many events ago each event was, (L,), of a history that was searched.
        """
        by_name = dict(zip(self.names, fields, strict=True))
        jagged = [Jagged(v, n) for v, n in zip(sequences, lengths, strict=True)]
        by_sequence = dict(zip(self.sequence_names, jagged, strict=True))
        of_cut = dict(zip(self.cut, ages, strict=True))
        return self.ranker(Embedded(by_name, by_sequence, dense_BN, of_cut)).sigmoid()


class SearchProgram(nn.Module):
    """What attention reads of targets and of their histories in, the events to keep out."""

    def __init__(self, ranker: SearchingRanker) -> None:
        super().__init__()
        self.ranker = ranker
        self.targets = ranker.columns.targets("attention")
        self.events = ranker.columns.events("attention")

    def forward(
        self, targets: list[Tensor], events: list[Tensor], lengths_B: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give token_BK, is_event_BK and age_BK of `Events`.

        Args:
            targets: Vectors (B, width), by column of the history.
            events: Vectors (L, width) of all events, packed, by column.
            lengths_B: Events of each history.
        """
        kept = self.ranker.kept(
            Embedded(
                fields=dict(zip(self.targets, targets, strict=True)),
                sequences={
                    key: Jagged(vectors_LD, lengths_B)
                    for key, vectors_LD in zip(self.events, events, strict=True)
                },
                dense_BN=targets[0][:, :0],
            )
        )
        assert kept.age_BK is not None, "search knows the ages of what it keeps"
        return kept.token_BK, kept.is_event_BK, kept.age_BK


class SequenceProgram(nn.Module):
    """Item vectors of histories in, what is compared with items out."""

    def __init__(self, task: SequenceTask, *, width: int | None) -> None:
        super().__init__()
        self.width = width
        self.encoder = task.encoder
        self.side_keys = task.keys[1:]

    def forward(
        self,
        items_LD: Tensor,
        sides: list[Tensor],
        times: list[Tensor],
        lengths_B: Tensor,
        is_last_L: Tensor,
    ) -> Tensor:
        """Give a vector (B, D) of what comes after each history.

        Args:
            items_LD: Vectors of the histories' items.
            sides: Vectors (L, width) of the sequence's other columns.
            times: Second of each event, and second its prediction is for; empty without times.
            lengths_B: Events of each history.
            is_last_L: Whether an event is the last of its history.
        """
        encoder = cast(SequenceEncoder, self.encoder)
        times_L, asked_at_L = times or (None, None)
        by_key = dict(zip(self.side_keys, sides, strict=True))
        history = History(items_LD, lengths_B, by_key, times_L, asked_at_L)
        if encoder.objective == "cloze":
            history = encoder.mask(history, is_last_L)
        return encoder.head(encoder(history, lengths_B.cumsum(0) - 1))[:, : self.width]


def _program(task: Task, *, width: int | None) -> torch.export.ExportedProgram:
    batch, tokens = Dim("batch", min=1), Dim("tokens", min=1)
    if isinstance(task, RankingTask):
        program = RankingProgram(task).eval()
        layout = task.layout
        fields = [torch.zeros(2, width) for width in layout.fields.values()]
        sequences = [torch.zeros(5, width) for width in layout.sequences.values()]
        lengths = [torch.tensor([2, 3]) for _ in sequences]
        ages = [torch.ones(5, dtype=torch.int64) for _ in program.cut]
        arguments: tuple[Any, ...] = (
            fields,
            sequences,
            lengths,
            torch.zeros(2, layout.num_dense),
            ages,
        )
        of_examples, of_events = {0: batch}, {0: tokens}
        shapes: Any = (
            [of_examples for _ in fields],
            [of_events for _ in sequences],
            [of_examples for _ in lengths],
            of_examples,
            [of_events for _ in ages],
        )
        return torch.export.export(program, arguments, dynamic_shapes=shapes)
    assert isinstance(task, SequenceTask)
    lengths_B = torch.tensor([2, 3])
    item_width, *side_widths = (task.embedder.widths[key] for key in task.keys)
    sides = [torch.zeros(5, side_width) for side_width in side_widths]
    # A tensor for each: one that were passed twice would be exported as a single input.
    num_times = 0 if task.time_key is None else 2
    times = [torch.zeros(5, dtype=torch.int64) for _ in range(num_times)]
    arguments = (torch.zeros(5, item_width), sides, times, lengths_B, is_last(lengths_B))
    along_tokens = {0: tokens}
    shapes = (
        along_tokens,
        [along_tokens for _ in sides],
        [along_tokens for _ in times],
        {0: batch},
        along_tokens,
    )
    program = SequenceProgram(task, width=width).eval()
    return torch.export.export(program, arguments, dynamic_shapes=shapes)


def _search_program(ranker: SearchingRanker) -> torch.export.ExportedProgram:
    widths = ranker.columns.widths("attention")
    arguments = (
        [torch.zeros(2, width) for width in widths],
        [torch.zeros(5, width) for width in widths],
        torch.tensor([2, 3]),
    )
    examples, events = {0: Dim("batch", min=1)}, {0: Dim("tokens", min=1)}
    shapes = ([examples for _ in widths], [events for _ in widths], examples)
    return torch.export.export(SearchProgram(ranker).eval(), arguments, dynamic_shapes=shapes)


# ------------------------------------------------------------------------------ description
def _describe(task: Task, manifest: Manifest, *, width: int | None) -> BundleManifest:
    described = BundleManifest(
        task=task.reads,
        labels=task.layout.labels if isinstance(task, RankingTask) else (),
        schema_fingerprint=manifest.schema_fingerprint,
        step=manifest.step,
        metrics=dict(manifest.metrics),
        versions={name: version(name) for name in _VERSIONED},
    )
    if isinstance(task, SequenceTask):
        objective = cast(SequenceEncoder, task.encoder).objective
        described = replace(
            described,
            sequence=task.key,
            objective=objective,
            max_length=task.max_length,
            item_output=task.item_output,
            width=width,
        )
    return described


def _card(manifest: BundleManifest, task: Task, *, checkpoint: Path) -> str:
    """The card, in Markdown."""
    model = task.ranker if isinstance(task, RankingTask) else task.encoder
    of_schemes = [build_scheme(t, is_served=True) for t in task.logical_tables(task.schema)]
    tables = [table for scheme in of_schemes for table in scheme.physical_tables]
    rows = "\n".join(f"| {t.name} | {t.num_rows:,} | {t.dim} | {t.num_bytes:,} |" for t in tables)
    metrics = "\n".join(f"| {k} | {v:.5f} |" for k, v in sorted(manifest.metrics.items()))
    names = "\n".join(f"- {f.name} ({f.kind})" for f in task.schema.feature_set.features)
    outputs = ", ".join(manifest.labels) or "items per user, best first"
    return (
        f"# {type(model).__name__}\n\n"
        f"Gives: {outputs}. From run {checkpoint.parent.parent.name}, step {manifest.step}.\n\n"
        f"    python -m recsys score BUNDLE DATA --out SCORES\n\n"
        f"Schema fingerprint `{manifest.schema_fingerprint}`.\n\n"
        f"## Features\n\n{names}\n\n"
        f"## Tables\n\n| table | rows | width | bytes |\n|---|---|---|---|\n{rows}\n\n"
        f"## Metrics logged with the checkpoint\n\n| metric | value |\n|---|---|\n{metrics}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser("python -m recsys export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run or of a checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to make")
    parser.add_argument(
        "--width", type=int, metavar="N", help="first numbers of vectors to keep; sequence models"
    )
    options = parser.parse_args(arguments)
    try:
        export(resolve_checkpoint(options.run), options.out, width=options.width)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"exported {options.out}")
    return 0
