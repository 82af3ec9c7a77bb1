"""The evolution alone, on a score that is known everywhere."""

import itertools

import pytest

from features.errors import RunConfigError
from recsys.search.evolution import (
    Candidate,
    EvolutionConfig,
    crossed,
    first_population,
    generator,
    mutated,
    next_population,
    ranked,
)

MOST = (8, 6, 4, 8, 5)
BEST = (5, 6, 1, 8, 2)


def candidate(genes):
    """The nearer to BEST the better; nothing else is as good."""
    distance = sum(abs(g - b) for g, b in zip(genes, BEST, strict=True))
    return Candidate(genes, 1 - distance / 100, sum(genes))


def evolve(config, *, seed=0, most=MOST):
    """Populations of all generations, and all that was tried."""
    known, populations = {}, []
    for number in range(config.generations):
        draws = generator(seed, number)
        population = (
            next_population(known, most, config, draws)
            if number
            else first_population(most, config, draws)
        )
        known |= {genes: candidate(genes) for genes in population}
        populations.append(population)
    return populations, known


def test_the_best_is_found_and_never_lost():
    populations, known = evolve(EvolutionConfig(generations=40, mutation_rate=0.3))
    assert ranked(known.values(), tolerance=0)[0].genes == BEST
    tried, before = {}, -1.0
    for population in populations:
        tried |= {genes: candidate(genes) for genes in population}
        now = ranked(tried.values(), tolerance=0)[0].auc
        assert now >= before
        before = now


def test_a_generation_depends_on_seed_number_and_what_is_known_alone():
    config = EvolutionConfig(generations=6)
    populations, known = evolve(config)
    assert evolve(config)[0] == populations
    assert evolve(config, seed=1)[0] != populations
    before = {genes: known[genes] for p in populations[:5] for genes in p}
    backwards = dict(reversed(before.items()))
    assert next_population(backwards, MOST, config, generator(0, 5)) == populations[5]


def test_populations_are_new_and_within_the_range():
    populations, known = evolve(EvolutionConfig(generations=10))
    assert [len(population) for population in populations] == [20] * 10
    assert populations[0][0] == MOST
    assert len(known) > 150
    for genes in known:
        assert all(1 <= width <= most for width, most in zip(genes, MOST, strict=True))


def test_a_mutation_reaches_every_width_and_leaves_its_parent_alone():
    parent, draws = (3, 3, 3, 3, 3), generator(0, 0)
    children = [mutated(parent, MOST, rate=0.5, rng=draws) for _ in range(500)]
    for place, most in enumerate(MOST):
        assert {child[place] for child in children} == set(range(1, most + 1))
    assert parent == (3, 3, 3, 3, 3)
    assert mutated(parent, MOST, rate=1e-12, rng=draws) == parent


def test_a_crossover_takes_a_start_and_a_rest_and_some_of_both():
    one, other = (1, 2, 3, 4), (5, 6, 7, 8)
    draws = generator(0, 0)
    found = {crossed(one, other, rng=draws) for _ in range(200)}
    assert found == {one[:cut] + other[cut:] for cut in (1, 2, 3)}
    assert crossed((1,), (2,), rng=draws) == (1,)


def test_within_the_tolerance_the_smallest_wins():
    found = [
        Candidate((9, 9), 0.90, 900),
        Candidate((5, 5), 0.895, 500),
        Candidate((1, 5), 0.8949, 300),
        Candidate((1, 1), 0.85, 100),
    ]
    for order in itertools.permutations(found):
        assert [c.size for c in ranked(order, tolerance=0)] == [900, 500, 300, 100]
        assert [c.size for c in ranked(order, tolerance=0.005)] == [500, 900, 300, 100]
        assert [c.size for c in ranked(order, tolerance=0.01)] == [300, 500, 900, 100]


def test_a_space_of_one_candidate_ends():
    populations, known = evolve(EvolutionConfig(generations=3), most=(1, 1, 1, 1, 1))
    assert list(known) == [(1, 1, 1, 1, 1)]
    assert len(populations[2]) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generations": 0}, "--generations: is too small, got 0; allowed 1 and more"),
        ({"num_mutations": 0, "num_crossovers": 0}, "--num_mutations, --num_crossovers: are both"),
        ({"mutation_rate": 0.0}, "--mutation_rate: is no probability, got 0.0"),
        ({"tolerance": -0.1}, "--tolerance: is below 0, got -0.1"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(RunConfigError, match=message):
        EvolutionConfig(**settings)
