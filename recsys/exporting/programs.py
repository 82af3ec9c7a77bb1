"""What a bundle computes after its tables, as programs of torch.export."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from recsys.bundle import MODEL, SEARCH
from recsys.nn.searching_ranker import SearchingRanker
from recsys.nn.tokens import is_last
from recsys.protocols import SequenceEncoder
from recsys.training.ranking import RankingTask
from recsys.training.sequence import SequenceTask
from recsys.training.task import Task
from recsys.types import Embedded, History, Jagged


def exported_programs(
    task: Task, *, width: int | None, user_map_DD: Tensor | None = None
) -> dict[str, ExportedProgram]:
    """By the name of the file in a bundle.

    Args:
        task: Trained, whole, and in evaluation mode.
        width: First numbers to keep of a sequence model's vectors. None: all.
        user_map_DD: What these are multiplied with. None: nothing.
    """
    programs = {MODEL: _program(task, width=width, user_map_DD=user_map_DD)}
    if isinstance(task, RankingTask) and (searching := task.searching) is not None:
        programs[SEARCH] = _search_program(searching)
    return programs


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

    user_map_DD: Tensor | None

    def __init__(
        self, task: SequenceTask, *, width: int | None, user_map_DD: Tensor | None
    ) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("user_map_DD", user_map_DD)
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
        vectors_BD = encoder.head(encoder(history, lengths_B.cumsum(0) - 1))[:, : self.width]
        return vectors_BD if self.user_map_DD is None else vectors_BD @ self.user_map_DD


def _program(task: Task, *, width: int | None, user_map_DD: Tensor | None) -> ExportedProgram:
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
    program = SequenceProgram(task, width=width, user_map_DD=user_map_DD).eval()
    return torch.export.export(program, arguments, dynamic_shapes=shapes)


def _search_program(ranker: SearchingRanker) -> ExportedProgram:
    widths = ranker.columns.widths("attention")
    arguments = (
        [torch.zeros(2, width) for width in widths],
        [torch.zeros(5, width) for width in widths],
        torch.tensor([2, 3]),
    )
    examples, events = {0: Dim("batch", min=1)}, {0: Dim("tokens", min=1)}
    shapes = ([examples for _ in widths], [events for _ in widths], examples)
    return torch.export.export(SearchProgram(ranker).eval(), arguments, dynamic_shapes=shapes)
