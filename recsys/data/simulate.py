"""A click log of any size whose click probabilities are known.

Impression of item v to user u at hour t, on a device x, at a price q:

    logit = bias + a <u, v> / sqrt(D) + quality_v - s_u z(log q)
            + c cos(2 pi (t - peak_v) / 24) + device_x + b <m_u, v> / sqrt(D)

with latent vectors u and v of width D, the user's sensitivity to prices s_u, the best hour peak_v
of the item's category, and m_u the mean vector of the items that u clicked last, so that histories
matter. Impressions follow Zipf's law over items and are log-normal over users; the hour of the day
has its own profile.

Clicks depend on earlier clicks, so the log is made window by window in the order of time, and
within a window step by step: step k draws the k-th event of every user at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import RunConfigError
from recsys.data.simulated_attraction import HistoriesConfig
from recsys.data.simulated_histories import SCHEMA as HISTORIES_SCHEMA
from recsys.data.simulated_histories import UNFINISHED, simulate_histories
from recsys.data.simulated_world import (
    CLICKS,
    DEVICES,
    EVENTS,
    LATENT_WIDTH,
    Floats,
    Ints,
    Items,
    SimulatorConfig,
    Users,
    make_items,
    make_users,
)

WINDOW = 1 << 18  # events that are in memory at once, some 100 MB
PILOT_EVENTS = 1 << 16
PILOT_PASSES = 6

START = datetime(2024, 1, 1)
NUM_DAYS = 30
MICROSECONDS_PER_HOUR = 3_600_000_000
# Traffic is lowest at four in the morning and highest twelve hours later.
HOUR_PROFILE = 1 - 0.7 * np.cos(2 * np.pi * (np.arange(24) - 4) / 24)
HOUR_SCALE = 0.5
DEVICE_EFFECT = np.array([0.2, -0.1, 0.0])
DISCOUNTS = np.array([0.0, 0.0, 0.0, 0.1, 0.25])

SCHEMA = pa.schema(
    {
        "user_id": pa.large_string(),
        "item_id": pa.large_string(),
        "timestamp": pa.timestamp("us"),
        "hour": pa.int8(),
        "device": pa.large_string(),
        "price": pa.float64(),
        "true_probability": pa.float64(),
        "click": pa.int8(),
    }
)


@dataclass(frozen=True)
class Impressions:
    """Events without their clicks, in the order of time; one element per event.

    Attributes:
        user: Row of the user.
        item: Row of the item.
        microseconds: Since the start of the log.
        device: Position in `DEVICES`.
        price: After discount.
    """

    user: Ints
    item: Ints
    microseconds: Ints
    device: Ints
    price: Floats

    @property
    def hour(self) -> Ints:
        """Hour of the day, 0 to 23."""
        return self.microseconds // MICROSECONDS_PER_HOUR % 24


class ClickProcess:
    """Draws clicks and remembers the items that every user clicked last.

    Args:
        config: How far and how strongly histories reach.
        items: Their vectors.
    """

    def __init__(self, config: SimulatorConfig, *, items: Items) -> None:
        self.scale = config.history_scale
        self.latents = items.latents
        no_item = len(items.latents) - 1
        self.last_items = np.full((config.num_users, config.history_length), no_item)
        self.num_clicks = np.zeros(config.num_users, dtype=np.int64)

    def draw(
        self, impressions: Impressions, *, logits: Floats, rng: np.random.Generator
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Probability and click of each impression.

        Args:
            impressions: Later than all that were drawn before.
            logits: All of the logit but the history effect.
            rng: Decides the clicks.
        """
        uniform = rng.random(len(logits))
        probability = np.empty_like(logits)
        click = np.zeros(len(logits), dtype=bool)
        for step in _steps(impressions.user):
            user, item = impressions.user[step], impressions.item[step]
            effect = _similarity(self._recent(user), self.latents[item])
            probability[step] = 1 / (1 + np.exp(-logits[step] - self.scale * effect))
            clicked = click[step] = uniform[step] < probability[step]
            self._remember(user[clicked], items=item[clicked])
        return probability, click

    def _recent(self, users: Ints) -> Floats:
        """m_u, zero before the first click."""
        known = np.minimum(self.num_clicks[users], self.last_items.shape[1])
        return self.latents[self.last_items[users]].sum(axis=1) / np.maximum(known, 1)[:, None]

    def _remember(self, users: Ints, *, items: Ints) -> None:
        """One click of each user; no user is named twice."""
        self.last_items[users, self.num_clicks[users] % self.last_items.shape[1]] = items
        self.num_clicks[users] += 1


def simulate(config: SimulatorConfig, directory: Path) -> None:
    """Write events.parquet, users.parquet and items.parquet.

    Events are sorted by time. `true_probability` is the probability that `click` was drawn with;
    its AUC is the ceiling of every model.

    Args:
        config: Sizes and seed.
        directory: Made if missing; files of the same names are replaced.
    """
    directory.mkdir(parents=True, exist_ok=True)
    users, items = make_users(config), make_items(config)
    users.table.write_parquet(directory / "users.parquet")
    items.table.write_parquet(directory / "items.parquet")
    bias = fit_bias(config, users=users, items=items)
    process = ClickProcess(config, items=items)
    partial = directory / UNFINISHED
    with pq.ParquetWriter(partial, SCHEMA) as writer:
        for window in range(-(-config.num_events // WINDOW)):
            impressions = draw_impressions(config, users=users, items=items, window=window)
            logits = bias + base_logits(config, impressions, users=users, items=items)
            probability, click = process.draw(
                impressions, logits=logits, rng=config.random(CLICKS, window)
            )
            columns = {
                "user_id": users.table["user_id"].gather(impressions.user),
                "item_id": items.table["item_id"].gather(impressions.item),
                "timestamp": np.datetime64(START, "us") + impressions.microseconds,
                "hour": impressions.hour,
                "device": pl.Series(DEVICES).gather(impressions.device),
                "price": impressions.price,
                "true_probability": probability,
                "click": click,
            }
            writer.write_table(pl.DataFrame(columns).to_arrow().cast(SCHEMA))
    os.replace(partial, directory / "events.parquet")


def draw_impressions(
    config: SimulatorConfig, *, users: Users, items: Items, window: int
) -> Impressions:
    """Draw who sees what and when, for the events of one window.

    Windows share out the quantiles of the log's time, so that each has a stretch of its own and
    the whole is sorted.
    """
    first = window * WINDOW
    size = min(WINDOW, config.num_events - first)
    rng = config.random(EVENTS, window)
    quantile = np.sort(rng.uniform(first, first + size, size=size)) / config.num_events
    traffic = np.cumsum(np.tile(HOUR_PROFILE, NUM_DAYS))
    hours = np.interp(
        quantile, np.concatenate([[0], traffic / traffic[-1]]), np.arange(len(traffic) + 1)
    )
    # A quantile of almost 1 may be rounded to the first moment after the log.
    last = len(traffic) * MICROSECONDS_PER_HOUR - 1
    user = _draw(users.share_below, size=size, rng=rng)
    item = _draw(items.share_below, size=size, rng=rng)
    is_usual_device = rng.random(size) < 0.8
    discount = rng.choice(DISCOUNTS, size=size)
    return Impressions(
        user=user,
        item=item,
        microseconds=np.minimum((hours * MICROSECONDS_PER_HOUR).astype(np.int64), last),
        device=np.where(is_usual_device, users.device[user], rng.integers(3, size=size)),
        price=(items.table["list_price"].to_numpy()[item] * (1 - discount)).round(2),
    )


def base_logits(
    config: SimulatorConfig, impressions: Impressions, *, users: Users, items: Items
) -> Floats:
    """The logit of each impression without bias and history effect."""
    user, item = impressions.user, impressions.item
    log_price = np.log(np.maximum(impressions.price, 0.01))
    return (
        config.affinity_scale * _similarity(users.latents[user], items.latents[item])
        + items.quality[item]
        - users.sensitivity[user] * (log_price - items.log_price_mean) / items.log_price_deviation
        + HOUR_SCALE * np.cos(2 * np.pi * (impressions.hour - items.peak_hour[item]) / 24)
        + DEVICE_EFFECT[impressions.device]
    )


def fit_bias(config: SimulatorConfig, *, users: Users, items: Items) -> float:
    """Bias that gives the base rate, by passes over small logs of other seeds.

    The passes share their click process, so that the rate is that of users with histories.
    """
    process = ClickProcess(config, items=items)
    bias = 0.0
    for attempt in range(1, PILOT_PASSES + 1):
        pilot = replace(
            config, num_events=min(config.num_events, PILOT_EVENTS), seed=config.seed + attempt
        )
        impressions = draw_impressions(pilot, users=users, items=items, window=0)
        logits = bias + base_logits(config, impressions, users=users, items=items)
        probability, _ = process.draw(impressions, logits=logits, rng=pilot.random(CLICKS, 0))
        bias += _logit(config.base_rate) - _logit(float(probability.mean()))
    return bias


KINDS = {
    "impressions": (
        SimulatorConfig,
        simulate,
        SCHEMA.names,
        ("num_users", "num_items", "num_events", "seed"),
    ),
    "histories": (
        HistoriesConfig,
        simulate_histories,
        HISTORIES_SCHEMA.names,
        (
            "num_users",
            "num_items",
            "num_categories",
            "history_length",
            "impressions_per_user",
            "seed",
        ),
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run the verb: `simulate [--kind KIND] --out DIRECTORY [--num-users N] ...`."""
    kind = argparse.ArgumentParser(
        prog="recsys simulate",
        description="Write a click log whose click probabilities are known.",
        epilog="The sizes are those of the kind: `--kind histories -h` lists its own.",
        add_help=False,
    )
    kind.add_argument(
        "--kind",
        choices=KINDS,
        default="impressions",
        help="impressions (default): many sorts of features; histories: long histories, with the "
        "relevance of every click in them",
    )
    chosen, _ = kind.parse_known_args(argv)
    config_class, write, columns, sizes = KINDS[chosen.kind]
    parser = argparse.ArgumentParser(
        prog=kind.prog, description=kind.description, epilog=kind.epilog, parents=[kind]
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write to")
    defaults = config_class()
    for name in sizes:
        default = getattr(defaults, name)
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=int, default=default, help=f"default {default:_}")
    options = parser.parse_args(argv)
    try:
        config = config_class(**{name: getattr(options, name) for name in sizes})
        _check_replaced(options.out, columns=columns)
    except RunConfigError as error:
        print(error, file=sys.stderr)
        return 2
    write(config, options.out)
    print(f"{options.out}: {config.num_events:,} events")
    return 0


def _check_replaced(directory: Path, *, columns: Sequence[str]) -> None:
    """Refuse to replace files that are no earlier log of this kind."""
    files = sorted(file.name for file in directory.glob("*.parquet"))
    if not files or (directory / UNFINISHED).exists():
        return
    try:
        found = pq.read_schema(directory / "events.parquet").names
    except (OSError, pa.ArrowInvalid):
        found = []
    if found != columns:
        raise RunConfigError(
            f"--out: holds another log, got {directory} with {', '.join(files)}; allowed a new "
            f"folder, or an earlier log of this kind, which is replaced; give another name"
        )


def _draw(share_below: Floats, *, size: int, rng: np.random.Generator) -> Ints:
    # The last cumulated share may fall short of 1 by rounding.
    rows = np.searchsorted(share_below, rng.random(size), side="right")
    return np.minimum(rows, len(share_below) - 1)


def _similarity(left: Floats, right: Floats) -> Floats:
    return np.einsum("nd,nd->n", left, right) / np.sqrt(LATENT_WIDTH)


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def _steps(user: Ints) -> list[Ints]:
    """Positions of all users' first events, then of their second ones, and so on."""
    by_user = np.argsort(user, kind="stable")
    events_per_user = np.bincount(user)
    first = np.cumsum(events_per_user) - events_per_user
    nth = np.empty_like(user)
    nth[by_user] = np.arange(len(user)) - first[user[by_user]]
    by_step = np.argsort(nth, kind="stable")
    return np.split(by_step, np.cumsum(np.bincount(nth))[:-1])
