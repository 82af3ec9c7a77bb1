"""How a person divides the events into training, validation and test."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from features.spec_base import Scalar, Spec


class RandomSplit(Spec):
    """Each event alone, by a hash of its row number."""

    kind: Literal["random"]
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of training, validation and test."""
    seed: int = 0


class TemporalSplit(Spec):
    """The oldest events train, the newest test."""

    kind: Literal["temporal"]
    fractions: tuple[float, float, float] | None = None
    """Shares of events in time order; events of one instant stay together."""
    val_from: str | int | None = None
    """First instant of validation: an ISO date or datetime, or a number where time is one."""
    test_from: str | int | None = None
    """First instant of test."""


class LeaveOneOutSplit(Spec):
    """Each user's last event tests, the one before validates, the rest trains."""

    kind: Literal["leave_one_out"]
    min_events: Annotated[int, Field(ge=1)] = 3
    """Users with fewer events only train."""


class ColumnSplit(Spec):
    """A column says it."""

    kind: Literal["column"]
    column: str
    train: tuple[Scalar, ...] = ("train",)
    val: tuple[Scalar, ...] = ("val",)
    test: tuple[Scalar, ...] = ("test",)


Split = Annotated[
    RandomSplit | TemporalSplit | LeaveOneOutSplit | ColumnSplit, Field(discriminator="kind")
]
