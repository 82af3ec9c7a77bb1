"""Checks of a model's settings: all mistakes are collected and raised once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from features.errors import RunConfigError, did_you_mean
from recsys.types import FieldLayout


class SettingsCheck:
    """Collects the mistakes in the settings of one model; `done` raises them.

    Args:
        where: Name of the model or layer, which starts every message.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._mistakes: list[str] = []

    def at_least(self, name: str, value: int | None, minimum: int) -> Self:
        """A count or a width that has a lower end, or None where it may be left open."""
        return self.holds(
            value is None or value >= minimum,
            f"{name}: is too small, got {value}; allowed {minimum} or more",
        )

    def dropout(self, name: str, value: float) -> Self:
        """A share that may be 0 and must stay below 1."""
        return self.holds(
            0.0 <= value < 1.0, f"{name}: is no dropout rate, got {value}; allowed 0 <= rate < 1"
        )

    def widths(self, name: str, values: Sequence[int], *, min_layers: int = 0) -> Self:
        """Widths of the layers of a perceptron."""
        return self.holds(
            len(values) >= min_layers and all(width >= 1 for width in values),
            f"{name}: needs a width of 1 or more per layer and {min_layers} or more layers, "
            f"got {list(values)}; write for example [400, 400]",
        )

    def one_of(self, name: str, value: str, allowed: Sequence[str]) -> Self:
        """A choice out of a few names."""
        return self.holds(
            value in allowed,
            f"{name}: is unknown, got {value!r}; allowed {', '.join(allowed)}"
            f"{did_you_mean(value, allowed)}",
        )

    def ranker_layout(self, layout: FieldLayout, *, one_width: bool = False) -> Self:
        """What every ranker needs: an input and a label, and fields of one width if asked."""
        self.holds(
            bool(layout.labels), "layout: has no label, got (); add `label` to the feature file"
        )
        self.holds(
            layout.width > 0, "layout: has no input; add a pooled or dense feature to the file"
        )
        if one_width:
            try:
                layout.common_width(self._where)
            except ValueError as mistake:
                self._mistakes.append(str(mistake))
        return self

    def encoder_layout(
        self, layout: FieldLayout, *, num_heads: int, head_width: int | None, rotary: bool = False
    ) -> Self:
        """What every sequence model needs: a sequence, whose items' width the heads divide.

        Args:
            layout: Widths of the inputs.
            num_heads: Of attention.
            head_width: None for the items' width divided by the heads.
            rotary: Whether the numbers of a head are turned, pair by pair.
        """
        self.at_least("num_heads", num_heads, 1).at_least("head_width", head_width, 1)
        self.holds(
            len(layout.sequences) > 0,
            "layout: needs a sequence, got none; add a `kind: sequence` to the feature file",
        )
        for name, width in [*layout.sequences.items()][:1]:
            self.holds(
                head_width is not None or num_heads < 1 or width % num_heads == 0,
                f"num_heads: does not divide the width {width} of {name!r}, got {num_heads}; "
                f"allowed divisors of {width}; choose one, or set head_width",
            )
            of_each = head_width or width // max(num_heads, 1)
            self.holds(
                not rotary or of_each % 2 == 0,
                f"head_width: is odd, but rotary positions turn pairs of numbers, got {of_each}; "
                f"allowed even widths; set head_width",
            )
        return self

    def holds(self, condition: bool, mistake: str) -> Self:
        """Any other condition.

        Args:
            condition: What must be true.
            mistake: The message where it is not, without the name of the model.
        """
        if not condition:
            self._mistakes.append(f"{self._where}: {mistake}")
        return self

    def done(self) -> None:
        """Raise what was collected.

        Raises:
            RunConfigError: there was a mistake; it is a ValueError.
        """
        if self._mistakes:
            raise RunConfigError(self._mistakes)
