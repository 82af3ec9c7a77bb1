"""What a look at data finds that is allowed, yet seldom meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["leak", "identical_rows", "one_value", "rare_ids", "unseen_ids", "unseen_entities"]


@dataclass(frozen=True)
class Finding:
    """A warning.

    Attributes:
        kind: Of what is found.
        subject: Feature, column or split that it is about.
        text: What it is, and what a person may do, in words.
        numbers: The same in numbers; shares are between 0 and 1.
    """

    kind: Kind
    subject: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
