import math
from collections import defaultdict, deque
from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from features.errors import RunConfigError
from recsys.data import simulate as simulator
from recsys.data.simulate import fit_bias, main, simulate
from recsys.data.simulated_histories import UNFINISHED
from recsys.data.simulated_world import SimulatorConfig, make_items, make_users

CONFIG = SimulatorConfig(num_users=800, num_items=300, num_events=40_000, seed=3)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("simulated")
    simulate(CONFIG, directory)
    return directory


@pytest.fixture(scope="module")
def events(directory):
    return pl.read_parquet(directory / "events.parquet")


def log_likelihood(probability, click):
    return np.where(click, np.log(probability), np.log1p(-probability)).mean()


def auc(score, click):
    ranks = pl.Series(score).rank().to_numpy()
    positives, negatives = click.sum(), (1 - click).sum()
    return (ranks[click == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def replay(config, events):
    """Probabilities with and without the history effect, event by event from the written files."""
    users, items = make_users(config), make_items(config)
    bias = fit_bias(config, users=users, items=items)
    device_effect = {"desktop": 0.2, "mobile": -0.1, "tablet": 0.0}
    clicked = defaultdict(lambda: deque(maxlen=config.history_length))
    logits, effects = [], []
    for event in events.iter_rows(named=True):
        user, item = int(event["user_id"][1:]), int(event["item_id"][1:])
        price = (math.log(event["price"]) - items.log_price_mean) / items.log_price_deviation
        angle = 2 * math.pi * (event["timestamp"].hour - items.peak_hour[item]) / 24
        affinity = users.latents[user] @ items.latents[item] / math.sqrt(8)
        logits.append(
            bias
            + config.affinity_scale * affinity
            + items.quality[item]
            - users.sensitivity[user] * price
            + 0.5 * math.cos(angle)
            + device_effect[event["device"]]
        )
        past = [items.latents[earlier] @ items.latents[item] for earlier in clicked[user]]
        effects.append(sum(past) / max(len(past), 1) / math.sqrt(8))
        if event["click"]:
            clicked[user].append(item)
    return [
        1 / (1 + np.exp(-np.array(logits) - scale * np.array(effects)))
        for scale in (config.history_scale, 0.0)
    ]


def test_schema_and_keys(directory, events):
    assert events.schema == {
        "user_id": pl.String,
        "item_id": pl.String,
        "timestamp": pl.Datetime("us"),
        "hour": pl.Int8,
        "device": pl.String,
        "price": pl.Float64,
        "true_probability": pl.Float64,
        "click": pl.Int8,
    }
    assert events.height == CONFIG.num_events
    assert events.null_count().sum_horizontal().item() == 0
    assert events["timestamp"].is_sorted()
    assert (events["hour"] == events["timestamp"].dt.hour()).all()
    span = events["timestamp"].max() - events["timestamp"].min()
    assert timedelta(days=29, hours=23) < span < timedelta(days=30)
    assert set(events["click"]) == {0, 1}
    users = pl.read_parquet(directory / "users.parquet")
    items = pl.read_parquet(directory / "items.parquet")
    assert users["user_id"].n_unique() == users.height == CONFIG.num_users
    assert items["item_id"].n_unique() == items.height == CONFIG.num_items
    assert events.join(users, on="user_id", how="anti").is_empty()
    assert events.join(items, on="item_id", how="anti").is_empty()
    assert items["tags"].str.split("|").list.len().is_between(1, 4).all()
    assert not (directory / "events.parquet.partial").exists()


def test_files_that_are_no_log_of_this_kind_are_not_replaced(tmp_path, capsys):
    small = ("--num-users", "20", "--num-items", "50", "--num-categories", "20")
    histories = ["--kind", "histories", "--out", str(tmp_path), *small]
    impressions = ["--out", str(tmp_path), "--num-events", "100"]
    assert main(impressions) == 0
    assert main(impressions) == 0  # an earlier log of its own
    assert main(histories) == 2
    assert "--out: holds another log, got" in capsys.readouterr().err
    pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "events.parquet")
    before = (tmp_path / "events.parquet").read_bytes()
    assert main(impressions) == 2
    assert (tmp_path / "events.parquet").read_bytes() == before
    (tmp_path / "events.parquet").unlink()
    assert main(impressions) == 2
    (tmp_path / UNFINISHED).touch()  # as a run that was ended leaves it
    assert main(impressions) == 0


def test_same_seed_same_files_and_other_seed_others(directory, tmp_path):
    for seed, name in ((CONFIG.seed, "same"), (CONFIG.seed + 1, "other")):
        simulate(replace(CONFIG, seed=seed), tmp_path / name)
    for file in ("events.parquet", "users.parquet", "items.parquet"):
        assert (tmp_path / "same" / file).read_bytes() == (directory / file).read_bytes()
        assert (tmp_path / "other" / file).read_bytes() != (directory / file).read_bytes()


def test_clicks_are_calibrated_in_every_bin(events):
    bins = events.with_columns(bin=(pl.col("true_probability") * 10).floor()).group_by("bin")
    for _, part in bins:
        p, click = part["true_probability"].to_numpy(), part["click"].to_numpy()
        deviation = np.sqrt((p * (1 - p)).sum())
        assert abs(click.sum() - p.sum()) < 4 * deviation
    assert events["true_probability"].mean() == pytest.approx(CONFIG.base_rate, abs=0.03)


def test_there_is_something_to_learn_and_a_ceiling(events):
    ceiling = auc(events["true_probability"].to_numpy(), events["click"].to_numpy())
    assert 0.8 < ceiling < 0.86


def test_probabilities_equal_a_plain_replay_across_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(simulator, "WINDOW", 700)
    config = replace(CONFIG, num_users=30, num_items=40, num_events=5_000)
    simulate(config, tmp_path)
    events = pl.read_parquet(tmp_path / "events.parquet")
    assert events["timestamp"].is_sorted()
    with_history, _ = replay(config, events)
    np.testing.assert_allclose(with_history, events["true_probability"], rtol=1e-9)


def test_histories_explain_clicks(events):
    click = events["click"].to_numpy()
    with_history, without_history = replay(CONFIG, events)
    gain = log_likelihood(with_history, click) - log_likelihood(without_history, click)
    assert gain > 0.01
    assert auc(with_history, click) > auc(without_history, click) + 0.01


def test_without_history_effect_the_past_does_not_matter(tmp_path):
    config = replace(CONFIG, history_scale=0.0, num_events=2_000)
    simulate(config, tmp_path)
    events = pl.read_parquet(tmp_path / "events.parquet")
    _, without_history = replay(config, events)
    np.testing.assert_allclose(without_history, events["true_probability"], rtol=1e-9)


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 1.3])
def test_impressions_follow_the_power_law(exponent):
    config = SimulatorConfig(
        num_users=50, num_items=100, num_events=100_000, popularity_exponent=exponent
    )
    impressions = simulator.draw_impressions(
        config, users=make_users(config), items=make_items(config), window=0
    )
    counts = np.sort(np.bincount(impressions.item, minlength=100))[::-1]
    expected = np.arange(1, 101) ** -exponent
    expected *= config.num_events / expected.sum()
    assert np.all(np.abs(counts - expected) < 4.5 * np.sqrt(expected))


def test_activity_is_skewed_and_nights_are_quiet(events):
    per_user = np.sort(events["user_id"].value_counts()["count"].to_numpy())[::-1]
    assert (
        per_user[:80].sum() / per_user.sum() > 0.3
    )  # log-normal, sigma 1: 0.39 of the busiest 10 %
    per_hour = np.bincount(events["hour"])
    assert per_hour.argmin() in range(2, 7)
    assert per_hour.argmax() in range(14, 19)


def test_attributes_go_with_what_is_true(directory):
    table = pl.read_parquet(directory / "users.parquet")
    users, items = make_users(CONFIG), make_items(CONFIG)
    assert np.corrcoef(table["age"], users.latents[:, 0])[0, 1] > 0.7
    assert np.corrcoef(table["income"].log(), users.sensitivity)[0, 1] < -0.7
    category = pl.read_parquet(directory / "items.parquet")["category"].to_numpy()
    vectors = items.latents[:-1]
    within = np.mean([vectors[category == c].var(axis=0).mean() for c in set(category)])
    assert within < 0.75 * vectors.var(axis=0).mean()


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_users": 1, "num_items": 1, "num_events": 1},
        {"num_users": 1, "num_items": 5, "num_events": 300},
        {"num_users": 500, "num_items": 1, "num_events": 3},
    ],
)
def test_small_sizes(tmp_path, sizes):
    simulate(SimulatorConfig(**sizes), tmp_path)
    events = pl.read_parquet(tmp_path / "events.parquet")
    assert events.height == sizes["num_events"]
    assert events["true_probability"].is_between(0, 1, closed="none").all()


def test_all_mistakes_at_once():
    with pytest.raises(RunConfigError) as caught:
        SimulatorConfig(num_users=0, seed=-1, base_rate=1.0)
    assert caught.value.mistakes == (
        "simulate: num_users is too small, got 0; allowed 1 or more",
        "simulate: seed is too small, got -1; allowed 0 or more",
        "simulate: base_rate is no rate, got 1.0; allowed between 0 and 1",
    )


def test_command_line(tmp_path, capsys):
    sizes = ["--num-users", "5", "--num-items", "4", "--num-events", "20", "--seed", "1"]
    assert main(["--out", str(tmp_path / "new" / "place"), *sizes]) == 0
    assert pl.read_parquet(tmp_path / "new" / "place" / "events.parquet").height == 20
    assert "20 events" in capsys.readouterr().out
    assert main(["--out", str(tmp_path / "x"), "--num-events", "0"]) == 2
    assert "num_events is too small, got 0" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
