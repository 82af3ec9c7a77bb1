"""Evolutionary search for the widths of features, apart from what a width is worth.

Source: Lyu et al., OptEmbed (2022), https://arxiv.org/abs/2208.04482, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from features.errors import RunConfigError

Genes = tuple[int, ...]
"""A width for each feature, from 1 to the most it may have."""

_DRAWS = 20


@dataclass(frozen=True, kw_only=True)
class EvolutionConfig:
    """How to search."""

    generations: int = 30
    """Populations that are tried."""
    num_parents: int = 10
    """Best candidates so far, from which the next population is bred."""
    num_mutations: int = 10
    """Candidates of a population that are changed parents."""
    num_crossovers: int = 10
    """Candidates of a population that are put together of two parents."""
    mutation_rate: float = 0.1
    """Probability that a width of a parent is drawn anew."""
    tolerance: float = 0.0
    """AUC that a candidate may lack of the best one and still win by being smaller.

    With 0 the highest AUC wins whatever its size, as in the paper. AUC hardly tells candidates
    apart, since the differences of most are far below what it varies by from seed to seed, while
    their sizes differ severalfold; an AUC that is given away here is often not even lost, since the
    chosen widths are trained anew. Among those that lack no more than this the smallest wins, and
    others are ranked by AUC.
    """

    def __post_init__(self) -> None:
        """Check.

        Raises:
            RunConfigError: with all mistakes.
        """
        least = {"generations": 1, "num_parents": 1, "num_mutations": 0, "num_crossovers": 0}
        mistakes = [
            f"--{name}: is too small, got {getattr(self, name)}; allowed {minimum} and more"
            for name, minimum in least.items()
            if getattr(self, name) < minimum
        ]
        if self.num_mutations + self.num_crossovers == 0:
            mistakes.append("--num_mutations, --num_crossovers: are both 0; allowed one of them")
        if not 0 < self.mutation_rate <= 1:
            mistakes.append(
                f"--mutation_rate: is no probability, got {self.mutation_rate}; allowed above 0, "
                f"up to 1"
            )
        if self.tolerance < 0:
            mistakes.append(f"--tolerance: is below 0, got {self.tolerance}; allowed 0 and more")
        if mistakes:
            raise RunConfigError(mistakes)


@dataclass(frozen=True)
class Candidate:
    """Widths and what they are worth.

    Attributes:
        genes: The widths.
        auc: On the validation rows.
        size: Numbers of all rows.
    """

    genes: Genes
    auc: float
    size: int


def ranked(candidates: Collection[Candidate], *, tolerance: float) -> list[Candidate]:
    """Candidates, the best first; see `EvolutionConfig.tolerance`."""
    enough = max(candidate.auc for candidate in candidates) - tolerance

    def place(candidate: Candidate) -> tuple[bool, float, float, Genes]:
        if candidate.auc < enough:
            return True, -candidate.auc, candidate.size, candidate.genes
        size = candidate.size if tolerance else 0
        return False, size, -candidate.auc, candidate.genes

    return sorted(candidates, key=place)


def first_population(most: Sequence[int], config: EvolutionConfig, rng: Generator) -> list[Genes]:
    """Candidates drawn at random, after that of all widths as wide as may be.

    Args:
        most: Greatest width of each feature.
        config: How many.
        rng: What is drawn from.
    """
    size = config.num_mutations + config.num_crossovers
    drawn = [tuple(int(rng.integers(1, m + 1)) for m in most) for _ in range(size - 1)]
    return [tuple(most), *drawn]


def next_population(
    known: Mapping[Genes, Candidate],
    most: Sequence[int],
    config: EvolutionConfig,
    rng: Generator,
) -> list[Genes]:
    """Mutations and crossovers of the best candidates so far.

    Differs from the paper: parents are the best of all generations, not of the last alone, so that
    the best is never lost; what is known already is drawn anew, some times.

    Args:
        known: All candidates so far, by genes.
        most: Greatest width of each feature.
        config: How many of what.
        rng: What is drawn from.
    """
    best = ranked(known.values(), tolerance=config.tolerance)[: config.num_parents]
    parents = [candidate.genes for candidate in best]
    found: list[Genes] = []

    def add_new(breed: Callable[[], Genes]) -> None:
        child = breed()
        for _ in range(_DRAWS):
            if child not in known and child not in found:
                break
            child = breed()
        found.append(child)

    for number in range(config.num_mutations):
        parent = parents[number % len(parents)]
        add_new(lambda p=parent: mutated(p, most, rate=config.mutation_rate, rng=rng))
    for _ in range(config.num_crossovers):
        add_new(lambda: crossed(*_pair(parents, rng), rng=rng))
    return found


def mutated(parent: Genes, most: Sequence[int], *, rate: float, rng: Generator) -> Genes:
    """A copy with some widths drawn anew, each from 1 to the greatest."""
    return tuple(
        int(rng.integers(1, m + 1)) if rng.random() < rate else width
        for width, m in zip(parent, most, strict=True)
    )


def crossed(one: Genes, other: Genes, *, rng: Generator) -> Genes:
    """The start of one and the rest of another; both give a width where there are two."""
    if len(one) == 1:
        return one
    cut = int(rng.integers(1, len(one)))
    return one[:cut] + other[cut:]


def _pair(parents: Sequence[Genes], rng: Generator) -> tuple[Genes, Genes]:
    one, other = rng.integers(0, len(parents), size=2)
    return parents[one], parents[other]


def generator(seed: int, generation: int) -> Generator:
    """What a generation draws from, whatever came before it."""
    return np.random.default_rng([seed, generation])
