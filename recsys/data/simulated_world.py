"""The users and items of a simulated log, and what is really true of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import RunConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LATENT_WIDTH = 8
NUM_CATEGORIES = 20
BRANDS_PER_CATEGORY = 5
NUM_TAGS = 40
NUM_REGIONS = 12
QUALITY_SCALE = 0.5
PRICE_SCALE = 0.3
ACTIVITY_SIGMA = 1.0
DEVICES = ("desktop", "mobile", "tablet")

# Random streams of a seed; events and clicks have one per window.
USERS, ITEMS, EVENTS, CLICKS = range(4)


def too_small(config: object, least: Mapping[str, int]) -> list[str]:
    """A message for each number of a configuration that is below its least value."""
    return [
        f"simulate: {name} is too small, got {getattr(config, name)}; allowed {bound} or more"
        for name, bound in least.items()
        if getattr(config, name) < bound
    ]


def correlated(values: Floats, *, share: float, rng: np.random.Generator) -> Floats:
    """Values of variance 1 with noise mixed in; `share` is the correlation with them."""
    return share * values + np.sqrt(1 - share**2) * rng.normal(size=values.shape)


@dataclass(frozen=True)
class SimulatorConfig:
    """Size and taste of a simulated log; the formula stands in `simulate.py`.

    Attributes:
        num_users: Users that may occur.
        num_items: Items that may occur.
        num_events: Impressions, which is rows of events.parquet.
        seed: Same seed and sizes, same files.
        base_rate: Click rate that the bias is set for; the log comes within some hundredths of it.
        popularity_exponent: An item's share of impressions is rank ** -exponent; 0 is uniform.
        affinity_scale: a of the formula.
        history_scale: b of the formula; 0 makes clicks independent of earlier clicks.
        history_length: Clicks that the history effect looks back.
    """

    num_users: int = 10_000
    num_items: int = 2_000
    num_events: int = 1_000_000
    seed: int = 0
    base_rate: float = 0.2
    popularity_exponent: float = 1.0
    affinity_scale: float = 0.8
    history_scale: float = 0.8
    history_length: int = 5

    def __post_init__(self) -> None:
        """Check the ranges."""
        least = {"num_users": 1, "num_items": 1, "num_events": 1, "seed": 0, "history_length": 1}
        mistakes = too_small(self, least)
        if not 0 < self.base_rate < 1:
            mistakes.append(
                f"simulate: base_rate is no rate, got {self.base_rate}; allowed between 0 and 1"
            )
        if mistakes:
            raise RunConfigError(mistakes)

    def random(self, *stream: int) -> np.random.Generator:
        """A generator of its own for each stream."""
        return np.random.default_rng([self.seed, *stream])


@dataclass(frozen=True)
class Users:
    """All users, one row each.

    Attributes:
        table: What users.parquet shows.
        latents: u, (num_users, D).
        sensitivity: s_u, what a price one standard deviation up costs in logits.
        device: Usual device, a position in `DEVICES`.
        share_below: Cumulated share of events.
    """

    table: pl.DataFrame
    latents: Floats
    sensitivity: Floats
    device: Ints
    share_below: Floats


@dataclass(frozen=True)
class Items:
    """All items, one row each.

    Attributes:
        table: What items.parquet shows.
        latents: v, (num_items + 1, D); the last row is zero and stands for no item.
        quality: quality_v.
        peak_hour: The hour at which the item's category does best.
        log_price_mean: Over items.
        log_price_deviation: Over items.
        share_below: Cumulated share of impressions.
    """

    table: pl.DataFrame
    latents: Floats
    quality: Floats
    peak_hour: Floats
    log_price_mean: float
    log_price_deviation: float
    share_below: Floats


def make_users(config: SimulatorConfig) -> Users:
    """Draw tastes, and attributes that go with them."""
    rng, size = config.random(USERS), config.num_users
    latents = rng.normal(size=(size, LATENT_WIDTH))
    sensitivity = rng.normal(size=size)
    age = np.clip(40 + 12 * correlated(latents[:, 0], share=0.8, rng=rng), 18, 90).astype(int)
    income = np.exp(10.3 - 0.4 * correlated(sensitivity, share=0.8, rng=rng)).round(-2)
    region = _best(latents, num_choices=NUM_REGIONS, rng=rng)[:, 0]
    # The younger, the more often a phone: 80 % at 20 years, 20 % at 80.
    is_mobile = rng.random(size) < 1 - age / 100
    activity = rng.lognormal(sigma=ACTIVITY_SIGMA, size=size)
    return Users(
        table=pl.DataFrame(
            {
                "user_id": _names("u", np.arange(size)),
                "age": age,
                "region": _names("region", region),
                "income": income,
            }
        ),
        latents=latents,
        sensitivity=PRICE_SCALE * sensitivity,
        device=np.where(is_mobile, 1, rng.choice([0, 2], p=[0.75, 0.25], size=size)),
        share_below=np.cumsum(activity / activity.sum()),
    )


def make_items(config: SimulatorConfig) -> Items:
    """Draw category and brand, vectors that go with them, and tags that go with the vectors."""
    rng, size = config.random(ITEMS), config.num_items
    category = rng.integers(NUM_CATEGORIES, size=size)
    brand = category * BRANDS_PER_CATEGORY + rng.integers(BRANDS_PER_CATEGORY, size=size)
    vectors = (
        0.7 * rng.normal(size=(NUM_CATEGORIES, LATENT_WIDTH))[category]
        + 0.4 * rng.normal(size=(NUM_CATEGORIES * BRANDS_PER_CATEGORY, LATENT_WIDTH))[brand]
        + 0.6 * rng.normal(size=(size, LATENT_WIDTH))
    )
    # Of one length, so that the few most famous items do not decide how much can be learnt.
    vectors *= np.sqrt(LATENT_WIDTH) / np.linalg.norm(vectors, axis=1, keepdims=True)
    log_price = 3 + rng.normal(size=NUM_CATEGORIES)[category] + rng.normal(size=size)
    share = rng.permutation(np.arange(1, size + 1) ** -config.popularity_exponent)
    fame = (np.log(share) - np.log(share).mean()) / (np.log(share).std() or 1)
    return Items(
        table=pl.DataFrame(
            {
                "item_id": _names("i", np.arange(size)),
                "category": _names("category", category),
                "brand": _names("brand", brand),
                "tags": _tags(vectors, rng=rng),
                "list_price": np.exp(log_price).round(2),
            }
        ),
        latents=np.vstack([vectors, np.zeros(LATENT_WIDTH)]),
        quality=QUALITY_SCALE * correlated(fame, share=0.6, rng=rng),
        peak_hour=rng.uniform(0, 24, size=NUM_CATEGORIES)[category],
        log_price_mean=float(log_price.mean()),
        log_price_deviation=float(log_price.std() or 1),
        share_below=np.cumsum(share / share.sum()),
    )


def _best(vectors: Floats, *, num_choices: int, rng: np.random.Generator) -> Ints:
    """Choices for each vector out of random directions, the best first, with some chance in it."""
    directions = rng.normal(size=(LATENT_WIDTH, num_choices))
    fit = vectors @ directions / np.sqrt(LATENT_WIDTH)
    return np.argsort(-(2 * fit + rng.gumbel(size=fit.shape)), axis=1)


def _tags(vectors: Floats, *, rng: np.random.Generator) -> list[str]:
    """One to four different tags of each item."""
    best = _best(vectors, num_choices=NUM_TAGS, rng=rng)
    number = rng.integers(1, 5, size=len(vectors))
    return ["|".join(_names("tag", row[:n])) for row, n in zip(best, number, strict=True)]


def _names(prefix: str, numbers: Ints) -> list[str]:
    return [f"{prefix}{number}" for number in numbers]
