"""Reads one sequence feature of each row: its earlier events, and their times if it has them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features import columns
from features.columns import count_column, sequence_column, time_column
from features.schema import FeatureSchema
from features.spec import Sequence
from recsys.data.histories import Histories
from recsys.data.jagged import Ids
from recsys.data.layout import position_column
from recsys.data.rows import Array, Column, Ragged, Rows, integers


class SequenceReader:
    """Slices of the histories that end where the rows say.

    Args:
        schema: Knows the ids.
        sequence: What to read.
        histories: Of this sequence.
        max_length: Keeps the most recent events.

    Attributes:
        columns: What it reads of each row: user, position and, for a sequence with `times`, the
            time of the question.
    """

    def __init__(
        self, schema: FeatureSchema, sequence: Sequence, *, histories: Histories, max_length: int
    ) -> None:
        self._sequence = sequence
        self._histories = histories
        self._num_ids = [schema.num_ids(of) for of in sequence.columns]
        self._max_length = max_length
        self._position = position_column(sequence)
        self._times = [time_column(sequence.name)] if sequence.times is not None else []
        self.columns = (columns.USER, self._position, *self._times)

    def ids(self, rows: Rows) -> list[Ids]:
        """Ids of all columns of the sequence; then the times of its events and the question.

        Where an event may have other than one id, their counts follow the ids.
        """
        of_columns = self._sequence.columns
        values, lengths_B = self._histories.slice(
            integers(rows[columns.USER]),
            integers(rows[self._position]),
            features=[*of_columns, *self._times],
            max_length=self._max_length,
        )
        found: list[Ids] = []
        for of, column, num_ids in zip(of_columns, values, self._num_ids, strict=False):
            key = sequence_column(self._sequence.name, of)
            found += _column_ids(key, column, lengths_B, num_ids=num_ids)
        for key in self._times:
            seconds = values[-1]
            assert isinstance(seconds, np.ndarray), "an event has one time"
            times = with_question(seconds, lengths_B, questions_B=integers(rows[key]))
            found.append(Ids(key, times, lengths_B + 1, num_ids=None, are_ids=False))
        return found


def _column_ids(
    key: str, column: Column, lengths_B: NDArray[np.int64], *, num_ids: int | None
) -> list[Ids]:
    if not isinstance(column, Ragged):
        return [Ids(key, column, lengths_B, num_ids)]
    counts_L = column.lengths
    before = np.concatenate([[0], np.cumsum(counts_L)])
    ends_B = np.cumsum(lengths_B)
    totals_B = before[ends_B] - before[ends_B - lengths_B]
    return [
        Ids(key, column.values, totals_B, num_ids),
        Ids(count_column(key), counts_L, lengths_B, num_ids=None, are_ids=False),
    ]


def with_question(
    times: Array, lengths_B: NDArray[np.int64], *, questions_B: NDArray[np.int64]
) -> Array:
    """The packed times of the events, with the time of the question after those of each example.

    Args:
        times: Of all events, example after example.
        lengths_B: Events of each example.
        questions_B: Time of each question.
    """
    return np.insert(times, np.cumsum(lengths_B), questions_B)
