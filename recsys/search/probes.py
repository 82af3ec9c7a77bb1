"""How many probes features should have: by their ids, then by what each is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

from features.errors import RunConfigError

MOST = 6


@dataclass(frozen=True)
class Candidate:
    """A feature of a unified table.

    Attributes:
        feature: Its name.
        num_ids: None: any number.
        probes: What it has.
        width: What a probe adds to the ranker's input: the table's width for every column that is
            read, the feature's own and those of sequences of it.
        drop: AUC that is lost when it is shuffled.
    """

    feature: str
    num_ids: int | None
    probes: int
    width: int
    drop: float


def start_probes(candidate: Candidate) -> int:
    """round(log10(ids)) - 1, from 1 to 6; where there may be any number of ids, what it has."""
    if candidate.num_ids is None:
        return candidate.probes
    return min(MOST, max(1, round(log10(candidate.num_ids)) - 1))


def propose(
    candidates: Sequence[Candidate], *, other_width: int, max_dim: int | None
) -> dict[str, int]:
    """Probes by feature.

    From where the numbers of ids put them, a probe goes to the feature that loses the most AUC per
    dimension that it has been given, this one included, as long as the width allows; never to one
    that loses nothing, nor beyond 6.

    Args:
        candidates: All features of unified tables.
        other_width: Of the ranker's input, without them.
        max_dim: Most dimensions of the whole input. None: there is one probe to give.

    Raises:
        RunConfigError: the start alone is wider.

    Source: Coleman et al., Unified Embedding (2023), https://arxiv.org/abs/2305.12102, which
    chooses by hand or by search; this rule is a cheap stand-in.
    """
    probes = {c.feature: start_probes(c) for c in candidates}
    given = dict.fromkeys(probes, 0)
    width = other_width + sum(probes[c.feature] * c.width for c in candidates)
    if max_dim is not None and width > max_dim:
        raise RunConfigError(
            f"--max-dim: is less than what the numbers of ids ask for, got {max_dim}; allowed "
            f"{width} and more; raise it, or give the tables a smaller dim"
        )
    while True:
        possible = [
            c
            for c in candidates
            if c.drop > 0
            and probes[c.feature] < MOST
            and (max_dim is None or width + c.width <= max_dim)
        ]
        if not possible:
            return probes
        best = max(possible, key=lambda c: c.drop / (c.width * (given[c.feature] + 1)))
        probes[best.feature] += 1
        given[best.feature] += 1
        width += best.width
        if max_dim is None:
            return probes
