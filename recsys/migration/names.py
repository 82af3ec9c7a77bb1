"""What the keys of an edited feature file were called before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class OldNames:
    """Old names by new ones.

    Attributes:
        features: Of the features that both files have.
        tables: Of the tables of `tables:` that both files have.
    """

    features: Mapping[str, str]
    tables: Mapping[str, str]

    def key(self, key: str) -> str | None:
        """What a key of a layout was; None where it is new.

        Args:
            key: A feature or `sequence.of`, of a decoupled table with its role. What a model or
                a table calls by itself starts with an @, and stays.
        """
        if key.startswith("@"):
            return key
        names, at, role = key.partition("@")
        found = [self.features.get(name) for name in names.split(".")]
        known = [name for name in found if name is not None]
        return ".".join(known) + at + role if len(known) == len(found) else None

    def old_parts(self, text: str) -> str:
        """The name of a physical table, or of a part of a scheme, with old names in it."""
        names = {**self.features, **self.tables}
        return "@".join(names.get(part, part) for part in text.split("@"))
