"""The categories of a simulated log with long histories, and what is true of them.

Each category has a theme, which says what bears on what, and a kind, which says what it means:

    attraction(t, b) = pull_b * (1 if b is of t's theme; lead if b is of the theme before t's; 0)
    valence(t, b)    = +1 or -1, by the kinds of t and b alone

A click in category b bears on target category t by its attraction, and makes a click on t likelier
or less likely by its valence. Categories of one kind mean the same, yet do not attract each other;
those of one theme attract each other, and half of them speak against each other. So a vector that
is good at finding what matters is no good at saying what it means, and one table is too few.

Attraction is not symmetric: b pulls by a strength of its own, and a theme leads to the next one,
never back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import RunConfigError
from recsys.data.simulated_world import Floats, Ints, too_small

NUM_KINDS = 8
MIN_PULL = 0.2

# Random streams of a seed; users have one per block.
CATEGORIES, ITEMS, USERS, PILOT = range(4)


@dataclass(frozen=True)
class HistoriesConfig:
    """Size and taste of a simulated log with long histories; see `simulated_histories`.

    Attributes:
        num_users: Users, each with as many events.
        num_items: Items that may occur, at least one for each category.
        num_categories: Categories; Taobao has 9,407.
        history_length: Clicks that every user starts with, and that a click looks back.
        impressions_per_user: Events after these, which are the examples.
        seed: Same seed and sizes, same files.
        base_rate: Click rate that the bias is set for; the log comes within some hundredths of it.
        popularity_exponent: An item's share of events is rank ** -exponent; 0 is uniform.
        history_scale: Root mean square of the history effect, in logits; 0 is none.
        half_life: Clicks after which an attraction has halved.
        lead: Attraction of a theme for the next one, by that within a theme.
    """

    num_users: int = 20_000
    num_items: int = 100_000
    num_categories: int = 9_407
    history_length: int = 200
    impressions_per_user: int = 57
    seed: int = 0
    base_rate: float = 1 / 3
    popularity_exponent: float = 0.7
    history_scale: float = 1.5
    half_life: float = 50.0
    lead: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        sizes = ("num_users", "num_categories", "history_length", "impressions_per_user")
        mistakes = too_small(self, {**dict.fromkeys(sizes, 1), "seed": 0})
        if self.num_items < self.num_categories:
            mistakes.append(
                f"simulate: num_items is too small, got {self.num_items}; allowed num_categories "
                f"({self.num_categories}) or more"
            )
        if not 0 < self.base_rate < 1:
            mistakes.append(
                f"simulate: base_rate is no rate, got {self.base_rate}; allowed between 0 and 1"
            )
        if self.half_life <= 0:
            mistakes.append(
                f"simulate: half_life is too small, got {self.half_life}; allowed above 0"
            )
        if mistakes:
            raise RunConfigError(mistakes)

    @property
    def num_events(self) -> int:
        """Rows of the log."""
        return self.num_users * (self.history_length + self.impressions_per_user)

    def random(self, *stream: int) -> np.random.Generator:
        """A generator of its own for each stream."""
        return np.random.default_rng([self.seed, *stream])


@dataclass(frozen=True)
class Categories:
    """All categories, one element each.

    Attributes:
        theme: 0 ... num_themes - 1; theme i leads to theme i + 1, the last to the first.
        kind: 0 ... NUM_KINDS - 1; a theme has no two categories of one kind.
        pull: Strength as a behaviour, `MIN_PULL` to 1.
        valence_of_kinds: (NUM_KINDS, NUM_KINDS), by the kinds of target and behaviour: 1 or -1,
            as many of each for every target.
        lead: Attraction of a theme for the next one.
    """

    theme: Ints
    kind: Ints
    pull: Floats
    valence_of_kinds: Floats
    lead: float

    @property
    def num_themes(self) -> int:
        """How many themes there are."""
        return int(self.theme.max()) + 1

    def attraction(self, targets: Ints, *, clicked: Ints) -> Floats:
        """How much a click matters for a target, whatever it says.

        Args:
            targets: Categories.
            clicked: Categories, of a shape that broadcasts with that of the targets.
        """
        target_theme, clicked_theme = self.theme[targets], self.theme[clicked]
        is_next = (clicked_theme + 1) % self.num_themes == target_theme
        nearness = np.where(clicked_theme == target_theme, 1.0, np.where(is_next, self.lead, 0.0))
        return nearness * self.pull[clicked]

    def valence(self, targets: Ints, *, clicked: Ints) -> Floats:
        """What a click says about a target: 1 makes it likelier, -1 less likely.

        Args:
            targets: Categories.
            clicked: Categories, of a shape that broadcasts with that of the targets.
        """
        return self.valence_of_kinds[self.kind[targets], self.kind[clicked]]

    def table(self) -> pl.DataFrame:
        """All pairs with an attraction, as attraction.parquet has them."""
        clicked = pl.DataFrame({"clicked_category": np.arange(len(self.theme)), "of": self.theme})
        reaches = [clicked.with_columns(reached=pl.col("of"))]
        if self.num_themes > 1 and self.lead:
            reaches.append(clicked.with_columns(reached=(pl.col("of") + 1) % self.num_themes))
        targets = pl.DataFrame(
            {"target_category": np.arange(len(self.theme)), "reached": self.theme}
        )
        pairs = targets.join(pl.concat(reaches), on="reached")
        pairs = pairs.select("target_category", "clicked_category").unique()
        pairs = pairs.sort("target_category", "clicked_category")
        t, b = (pairs[name].to_numpy() for name in pairs.columns)
        return pairs.with_columns(
            pl.col(pairs.columns).cast(pl.Int32),
            attraction=self.attraction(t, clicked=b),
            valence=pl.Series(self.valence(t, clicked=b)).cast(pl.Int8),
        )


def make_categories(config: HistoriesConfig) -> Categories:
    """Draw theme, kind and pull of each category; its number tells nothing of them."""
    rng, size = config.random(CATEGORIES), config.num_categories
    place = rng.permutation(size)
    half = np.repeat([1.0, -1.0], NUM_KINDS // 2)
    return Categories(
        theme=place // NUM_KINDS,
        kind=place % NUM_KINDS,
        pull=rng.uniform(MIN_PULL, 1, size=size),
        valence_of_kinds=rng.permuted(np.tile(half, (NUM_KINDS, 1)), axis=1),
        lead=config.lead,
    )


def decay(config: HistoriesConfig) -> Floats:
    """What is left of an attraction after 1, 2, ... history_length clicks, the last click first."""
    clicks_since: NDArray[np.int64] = np.arange(config.history_length)
    return 1 / (1 + clicks_since / config.half_life)
