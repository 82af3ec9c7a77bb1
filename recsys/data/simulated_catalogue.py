"""The items of a simulated log with long histories, and who comes across them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.data.simulated_attraction import ITEMS, Categories, HistoriesConfig
from recsys.data.simulated_world import QUALITY_SCALE, Floats, Ints, correlated

# A user's interests are pairs of a theme and the next one.
NUM_INTERESTS = 5
INTEREST_SHARE = 0.9


@dataclass(frozen=True)
class Catalogue:
    """All items, ordered by theme, so that a theme is a range of places.

    Attributes:
        item: Item at each place.
        share_below: Cumulated share of events of the places before, and 1; one more than places.
        first_place: Of each theme, and the number of items; one more than themes.
        theme: Of each item.
        category: Of each item.
        quality: Of each item, in logits.
    """

    item: Ints
    share_below: Floats
    first_place: Ints
    theme: Ints
    category: Ints
    quality: Floats

    def table(self) -> pl.DataFrame:
        """All items, as items.parquet has them."""
        numbers = {"item_id": np.arange(len(self.item)), "category": self.category}
        return pl.DataFrame(numbers, schema=dict.fromkeys(numbers, pl.Int32)).with_columns(
            true_quality=self.quality
        )

    def draw(self, *, themes: Ints | None, size: tuple[int, int], rng: np.random.Generator) -> Ints:
        """Items by popularity.

        Args:
            themes: That the items are of, of shape `size`; None: of any.
            size: Of the result.
            rng: Decides.
        """
        low, high = 0.0, 1.0
        first, last = 0, len(self.item) - 1
        if themes is not None:
            first, last = self.first_place[themes], self.first_place[themes + 1] - 1
            low, high = self.share_below[first], self.share_below[last + 1]
        share = low + rng.random(size) * (high - low)
        # Rounding may lead out of the range.
        places = np.searchsorted(self.share_below, share, side="right") - 1
        return self.item[np.clip(places, first, last)]


@dataclass(frozen=True)
class Block:
    """Some users; U of them, with L clicks to begin with and P impressions each.

    Attributes:
        early_items_UL: Clicked before the impressions, oldest first.
        items_UP: Shown, oldest first.
    """

    early_items_UL: Ints
    items_UP: Ints


def make_catalogue(config: HistoriesConfig, *, categories: Categories) -> Catalogue:
    """Draw category, popularity and quality of the items; every category has one at least."""
    rng, size, num_categories = config.random(ITEMS), config.num_items, config.num_categories
    weight = rng.lognormal(size=num_categories)
    others = rng.choice(num_categories, size=size - num_categories, p=weight / weight.sum())
    category = rng.permutation(np.concatenate([np.arange(num_categories), others]))
    share = rng.permutation(np.arange(1, size + 1) ** -config.popularity_exponent)
    fame = (np.log(share) - np.log(share).mean()) / (np.log(share).std() or 1)
    theme = categories.theme[category]
    item = np.argsort(theme, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(share[item])])
    return Catalogue(
        item=item,
        share_below=below / below[-1],
        first_place=np.searchsorted(theme[item], np.arange(categories.num_themes + 1)),
        theme=theme,
        category=category,
        quality=QUALITY_SCALE * correlated(fame, share=0.6, rng=rng),
    )


def draw_block(
    config: HistoriesConfig, *, num_users: int, catalogue: Catalogue, rng: np.random.Generator
) -> Block:
    """Draw what users click of their own accord, and what they are shown."""
    num_themes = len(catalogue.first_place) - 1
    popular = catalogue.draw(themes=None, size=(num_users, NUM_INTERESTS), rng=rng)
    theme_UI = catalogue.theme[popular]
    interests_UI = np.concatenate([theme_UI, (theme_UI + 1) % num_themes], axis=1)
    size = (num_users, config.history_length + config.impressions_per_user)
    chosen = rng.integers(interests_UI.shape[1], size=size)
    of_interest = catalogue.draw(
        themes=np.take_along_axis(interests_UI, chosen, axis=1), size=size, rng=rng
    )
    of_any = catalogue.draw(themes=None, size=size, rng=rng)
    items = np.where(rng.random(size) < INTEREST_SHARE, of_interest, of_any)
    return Block(items[:, : config.history_length], items[:, config.history_length :])
