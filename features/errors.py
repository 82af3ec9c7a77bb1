"""Errors that a user can mend, by cause; each says `where: what is wrong, got X; allowed Y`."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RecsysError(ValueError):
    """One or several mistakes of the same cause, reported together.

    Args:
        mistakes: One message each.
    """

    def __init__(self, mistakes: str | Iterable[str]) -> None:
        self.mistakes = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        super().__init__("\n".join(self.mistakes))

    def __reduce__(self) -> tuple[type[RecsysError], tuple[tuple[str, ...]]]:
        """Travels between processes with all its mistakes."""
        return type(self), (self.mistakes,)


class FeatureConfigError(RecsysError):
    """The feature file is wrong."""


class DataError(RecsysError):
    """The data does not fit the feature file."""


class SchemaMismatchError(RecsysError):
    """Data, checkpoint or bundle was made under another schema."""


class CheckpointMismatchError(RecsysError):
    """A checkpoint does not fit the model it is loaded into."""


class RunConfigError(RecsysError):
    """The run's configuration is wrong."""


class OutputError(RecsysError):
    """What was made cannot be written."""


class LossError(RecsysError):
    """The loss has become a number that training cannot go on from."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """A hint `; did you mean 'x'?` for the nearest allowed name, or an empty string."""
    nearest = get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
