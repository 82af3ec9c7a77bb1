"""A click log with long histories, in which the relevance of every earlier click is known.

Every user begins with `history_length` clicks of their own accord, which have no label. Then come
impressions, the examples. An impression of an item of category t, whose user clicked items of the
categories b_1, b_2, ... before (the last click first, at most `history_length` of them), has

    logit = bias + quality of the item + scale * sum_i valence(t, b_i) attraction(t, b_i) decay(i)

and if it is clicked, it is the last click for the impressions after it. attraction * decay is what
a search over histories should find, valence what the clicks found say; `simulated_attraction` has
both. What a user does and what is shown come from the same few themes of that user, whatever was
clicked, so that only clicks themselves tell of clicks.

Impressions rather than sampled negatives, since their truth is the formula above: whether a click
or a random item is in front of us depends on all items that might have been clicked instead.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.data.simulated_attraction import (
    PILOT,
    USERS,
    Categories,
    HistoriesConfig,
    decay,
    make_categories,
)
from recsys.data.simulated_catalogue import Block, Catalogue, draw_block, make_catalogue
from recsys.data.simulated_world import Floats, Ints

USERS_PER_BLOCK = 1024  # users that are in memory at once, some 50 MB
PILOT_IMPRESSIONS = 4

HISTORIES_FROM = np.datetime64("2024-01-01", "us")
SHOWN_FROM = np.datetime64("2024-04-01", "us")
SHOWN_UNTIL = np.datetime64("2024-05-01", "us")

UNFINISHED = "events.parquet.partial"
SCHEMA = pa.schema(
    {
        "user_id": pa.int32(),
        "item_id": pa.int32(),
        "category": pa.int32(),
        "timestamp": pa.timestamp("us"),
        "shown": pa.bool_(),
        "true_probability": pa.float64(),
        "click": pa.int8(),
    }
)


def simulate_histories(config: HistoriesConfig, directory: Path) -> None:
    """Write events.parquet, items.parquet, attraction.parquet and decay.parquet.

    Events are sorted by user and time. `true_probability` is the probability that `click` was
    drawn with, null where nothing was `shown`; its AUC is the ceiling of every model.

    Args:
        config: Sizes and seed.
        directory: Made if missing; files of the same names are replaced.
    """
    directory.mkdir(parents=True, exist_ok=True)
    categories = make_categories(config)
    catalogue = make_catalogue(config, categories=categories)
    categories.table().write_parquet(directory / "attraction.parquet")
    catalogue.table().write_parquet(directory / "items.parquet")
    distances = np.arange(1, config.history_length + 1, dtype=np.int32)
    decays = pl.DataFrame({"distance": distances, "decay": decay(config)})
    decays.write_parquet(directory / "decay.parquet")
    clicks = fit_clicks(config, categories=categories, catalogue=catalogue)
    partial = directory / UNFINISHED
    with pq.ParquetWriter(partial, SCHEMA) as writer:
        for number, first in enumerate(range(0, config.num_users, USERS_PER_BLOCK)):
            rng = config.random(USERS, number)
            num_users = min(USERS_PER_BLOCK, config.num_users - first)
            block = draw_block(config, num_users=num_users, catalogue=catalogue, rng=rng)
            probability_UP, click_UP = clicks.draw(block, rng=rng)
            events = _events(block, probability_UP, click_UP, first_user=first, rng=rng)
            category = pl.Series("category", catalogue.category[events["item_id"]])
            events = events.with_columns(category).select(SCHEMA.names)
            writer.write_table(events.to_arrow().cast(SCHEMA))
    os.replace(partial, directory / "events.parquet")


@dataclass(frozen=True)
class Clicks:
    """How impressions become clicks.

    Attributes:
        categories: What is true of them.
        catalogue: The items.
        decay_L: By clicks since, the last click first.
        scale: Of the history effect.
        bias: Of the logit.
    """

    categories: Categories
    catalogue: Catalogue
    decay_L: Floats
    scale: float = 1.0
    bias: float = 0.0

    def draw(self, block: Block, *, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
        """Probability and click of each impression, (U, P).

        Args:
            block: Users with their events in order.
            rng: Decides the clicks.
        """
        uniform_UP = rng.random(block.items_UP.shape)
        probability_UP = np.empty_like(uniform_UP)
        click_UP = np.zeros(block.items_UP.shape, dtype=bool)
        recent_UL = self.first_recent(block)
        for step, items_U in enumerate(block.items_UP.T):
            effect_U = self.scale * self.history_effect(recent_UL, items_U=items_U)
            logits_U = self.bias + self.catalogue.quality[items_U] + effect_U
            probability_UP[:, step] = 1 / (1 + np.exp(-logits_U))
            clicked_U = uniform_UP[:, step] < probability_UP[:, step]
            click_UP[:, step] = clicked_U
            recent_UL[clicked_U, 1:] = recent_UL[clicked_U, :-1]
            recent_UL[clicked_U, 0] = self.catalogue.category[items_U[clicked_U]]
        return probability_UP, click_UP

    def first_recent(self, block: Block) -> Ints:
        """Categories clicked before all impressions, (U, L), the last click first."""
        return self.catalogue.category[block.early_items_UL[:, ::-1]]

    def history_effect(self, recent_UL: Ints, *, items_U: Ints) -> Floats:
        """The sum of the formula, without its scale.

        Args:
            recent_UL: Categories clicked, the last click first.
            items_U: The item shown to each user.
        """
        targets_U1 = self.catalogue.category[items_U][:, None]
        attraction_UL = self.categories.attraction(targets_U1, clicked=recent_UL)
        valence_UL = self.categories.valence(targets_U1, clicked=recent_UL)
        return (valence_UL * attraction_UL) @ self.decay_L


def fit_clicks(config: HistoriesConfig, *, categories: Categories, catalogue: Catalogue) -> Clicks:
    """Scale and bias that give the configured history effect and base rate to other users."""
    rng = config.random(PILOT)
    clicks = Clicks(categories, catalogue, decay(config))
    block = draw_block(config, num_users=USERS_PER_BLOCK, catalogue=catalogue, rng=rng)
    recent_UL = clicks.first_recent(block)
    shown = block.items_UP.T[:PILOT_IMPRESSIONS]
    effects = np.array([clicks.history_effect(recent_UL, items_U=items) for items in shown])
    size = float(np.sqrt((effects**2).mean()))
    scale = config.history_scale / size if size > 0 else 0.0
    bias = _bias(catalogue.quality[shown] + scale * effects, rate=config.base_rate)
    return Clicks(categories, catalogue, clicks.decay_L, scale=scale, bias=bias)


def _bias(logits: Floats, *, rate: float) -> float:
    """What to add to the logits for a mean probability."""
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = float((1 / (1 + np.exp(-logits - middle))).mean())
        low, high = (middle, high) if mean < rate else (low, middle)
    return (low + high) / 2


def _events(
    block: Block,
    probability_UP: Floats,
    click_UP: NDArray[np.bool_],
    *,
    first_user: int,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """The rows of a block, without their categories."""
    early = block.early_items_UL.shape
    whole = (early[0], early[1] + click_UP.shape[1])
    times = [
        _instants(HISTORIES_FROM, SHOWN_FROM, size=early, rng=rng),
        _instants(SHOWN_FROM, SHOWN_UNTIL, size=click_UP.shape, rng=rng),
    ]
    columns = {
        "user_id": np.broadcast_to(first_user + np.arange(whole[0])[:, None], whole),
        "item_id": np.concatenate([block.early_items_UL, block.items_UP], axis=1),
        "timestamp": np.concatenate(times, axis=1),
        "shown": np.broadcast_to(np.arange(whole[1]) >= early[1], whole),
        "true_probability": np.concatenate([np.full(early, np.nan), probability_UP], axis=1),
        "click": np.concatenate([np.ones(early, dtype=np.int8), click_UP], axis=1),
    }
    frame = pl.DataFrame({name: values.reshape(-1) for name, values in columns.items()})
    return frame.with_columns(pl.col("true_probability").fill_nan(None))


def _instants(
    start: np.datetime64, end: np.datetime64, *, size: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.datetime64]:
    """Rising instants of each user, uniform between two."""
    span = int((end - start).astype(np.int64))
    return start + np.sort(rng.integers(span, size=size), axis=1).astype("timedelta64[us]")
