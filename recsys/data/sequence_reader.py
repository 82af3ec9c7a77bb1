"""Reads one sequence feature of each row: its earlier events, and their times if it has them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features import columns
from features.columns import sequence_column, time_column
from features.schema import FeatureSchema
from features.spec import Sequence
from recsys.data.histories import Histories
from recsys.data.jagged import Ids
from recsys.data.layout import position_column
from recsys.data.rows import Array, Rows, integers


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
        """Ids of all columns of the sequence; then the times of its events and the question."""
        of_columns = self._sequence.columns
        values, lengths_B = self._histories.slice(
            integers(rows[columns.USER]),
            integers(rows[self._position]),
            features=[*of_columns, *self._times],
            max_length=self._max_length,
        )
        found = [
            Ids(sequence_column(self._sequence.name, of), of_values, lengths_B, num_ids)
            for of, of_values, num_ids in zip(of_columns, values, self._num_ids, strict=False)
        ]
        for key in self._times:
            times = with_question(values[-1], lengths_B, questions_B=integers(rows[key]))
            found.append(Ids(key, times, lengths_B + 1, num_ids=None, is_time=True))
        return found


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
