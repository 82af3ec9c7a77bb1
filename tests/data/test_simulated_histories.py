"""The log with long histories, against plain loops over the files that were written."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from features.errors import RunConfigError
from recsys.data import simulated_histories
from recsys.data.simulate import main
from recsys.data.simulated_attraction import NUM_KINDS, HistoriesConfig, decay, make_categories
from recsys.data.simulated_catalogue import make_catalogue
from recsys.data.simulated_histories import simulate_histories

CONFIG = HistoriesConfig(
    num_users=400,
    num_items=500,
    num_categories=60,
    history_length=30,
    impressions_per_user=40,
    half_life=10.0,
    seed=3,
)
FILES = ("events", "items", "attraction", "decay")


def written(config, directory):
    simulate_histories(config, directory)
    return {name: pl.read_parquet(directory / f"{name}.parquet") for name in FILES}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("histories")


@pytest.fixture(scope="module")
def log(directory):
    return written(CONFIG, directory)


def replayed(log):
    """What was shown, with the sum over earlier clicks; reads nothing but earlier rows."""
    truth = {(t, b): a * v for t, b, a, v in log["attraction"].rows()}
    by_distance = dict(log["decay"].rows())
    clicked, effects, last = defaultdict(list), [], []
    for event in log["events"].iter_rows(named=True):
        earlier = clicked[event["user_id"]]
        if event["shown"]:
            terms = [
                truth.get((event["category"], b), 0.0) * by_distance.get(distance, 0.0)
                for distance, b in enumerate(reversed(earlier), start=1)
            ]
            effects.append(sum(terms))
            last.append(truth.get((event["category"], earlier[-1]), 0.0))
        if event["click"]:
            earlier.append(event["category"])
    shown = (
        log["events"].filter("shown").with_columns(effect=np.array(effects), of_last=np.array(last))
    )
    return shown.join(log["items"], on=["item_id", "category"], maintain_order="left")


def scale_and_bias(shown):
    """Of the logit without quality, as a line in the effect; it must lie on it exactly."""
    p = shown["true_probability"].to_numpy()
    rest = np.log(p / (1 - p)) - shown["true_quality"].to_numpy()
    x = np.stack([shown["effect"].to_numpy(), np.ones(len(p))], axis=1)
    (scale, bias), *_ = np.linalg.lstsq(x, rest, rcond=None)
    np.testing.assert_allclose(rest, scale * x[:, 0] + bias, atol=1e-8)
    return scale, bias


def assert_calibrated(part):
    p, clicks = part["true_probability"].to_numpy(), part["click"].sum()
    assert abs(clicks - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum()) + 1e-9


# -------------------------------------------------------------------------------------- events
def test_schema_order_and_keys(log, directory):
    events = log["events"]
    assert events.schema == {
        "user_id": pl.Int32,
        "item_id": pl.Int32,
        "category": pl.Int32,
        "timestamp": pl.Datetime("us"),
        "shown": pl.Boolean,
        "true_probability": pl.Float64,
        "click": pl.Int8,
    }
    assert events.equals(events.sort("user_id", "timestamp", maintain_order=True))
    users = events.group_by("user_id").agg(pl.len(), early=(~pl.col("shown")).sum())
    assert users.height == CONFIG.num_users
    assert users.select("len", "early").unique().rows() == [(70, 30)]
    assert events.join(log["items"], on=["item_id", "category"], how="anti").is_empty()
    early = events.filter(~pl.col("shown"))
    assert (early["click"] == 1).all()
    assert early["true_probability"].is_null().all()
    assert early["timestamp"].max() < events.filter("shown")["timestamp"].min()
    assert events.filter("shown")["true_probability"].null_count() == 0
    assert log["items"]["category"].n_unique() == CONFIG.num_categories
    assert not (directory / "events.parquet.partial").exists()


def test_same_seed_same_files_and_other_seed_others(log, directory, tmp_path):
    simulate_histories(CONFIG, tmp_path / "same")
    simulate_histories(replace(CONFIG, seed=4), tmp_path / "other")
    for name in FILES:
        before = (directory / f"{name}.parquet").read_bytes()
        assert (tmp_path / "same" / f"{name}.parquet").read_bytes() == before
        is_equal = (tmp_path / "other" / f"{name}.parquet").read_bytes() == before
        assert is_equal == (name == "decay")


def test_probabilities_follow_from_earlier_rows_alone_by_the_written_truth(log):
    shown = replayed(log)
    scale, _ = scale_and_bias(shown)
    size = scale * np.sqrt((shown["effect"] ** 2).mean())
    assert size == pytest.approx(CONFIG.history_scale, rel=0.15)


def test_blocks_of_users_are_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(simulated_histories, "USERS_PER_BLOCK", 7)
    config = replace(CONFIG, num_users=30, history_length=5)
    log = written(config, tmp_path)
    assert log["events"]["user_id"].unique().to_list() == list(range(30))
    first = log["events"].group_by("user_id").agg(pl.col("item_id").first())
    assert first["item_id"].n_unique() > 20
    scale_and_bias(replayed(log))


def test_click_rates_follow_the_truth(log):
    shown = replayed(log)
    assert shown["click"].mean() == pytest.approx(CONFIG.base_rate, abs=0.03)
    for column in ("true_probability", "effect", "true_quality"):
        for part in shown.sort(column).iter_slices(1600):
            assert_calibrated(part)
    # Only what the last click was: what attracts and speaks for it, against it, or neither.
    rate = {
        sign: shown.filter(pl.col("of_last").sign() == sign)["click"].mean() for sign in (-1, 0, 1)
    }
    assert rate[-1] < rate[0] - 0.03
    assert rate[1] > rate[0] + 0.03


def test_without_history_effect_the_past_does_not_matter(tmp_path):
    log = written(replace(CONFIG, history_scale=0.0, num_users=20), tmp_path)
    scale, _ = scale_and_bias(replayed(log))
    assert scale == pytest.approx(0, abs=1e-9)


def test_what_is_shown_does_not_depend_on_clicks(tmp_path):
    names = ("user_id", "item_id", "timestamp")
    logs = [
        written(replace(CONFIG, history_scale=scale, num_users=20), tmp_path / str(scale))["events"]
        for scale in (0.0, 3.0)
    ]
    assert logs[0].select(names[:2]).equals(logs[1].select(names[:2]))
    assert not logs[0]["click"].equals(logs[1]["click"])


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_users": 1, "num_items": 1, "num_categories": 1, "history_length": 1},
        {"num_users": 1, "num_items": 9, "num_categories": 9, "history_length": 3},
        {"num_users": 50, "num_items": 30, "num_categories": 1, "history_length": 2},
        {"num_users": 50, "num_items": 16, "num_categories": 16, "history_length": 40},
    ],
)
def test_small_sizes(tmp_path, sizes):
    log = written(HistoriesConfig(**sizes, impressions_per_user=3), tmp_path)
    assert log["events"].height == sizes["num_users"] * (sizes["history_length"] + 3)
    p = replayed(log)["true_probability"]
    assert p.is_between(0, 1, closed="none").all()
    assert log["items"].height == sizes["num_items"]


# --------------------------------------------------------------------------------------- truth
def test_attraction_is_by_theme_and_meaning_by_kind():
    true = make_categories(CONFIG)
    numbers = np.arange(CONFIG.num_categories)
    attraction = true.attraction(numbers[:, None], clicked=numbers)
    valence = true.valence(numbers[:, None], clicked=numbers)
    same_theme = true.theme[:, None] == true.theme
    assert (attraction[same_theme] >= 0.2).all()
    following = (true.theme + 1) % true.num_themes
    leads_to = true.theme[:, None] == following
    assert (attraction[~same_theme & ~leads_to] == 0).all()
    for theme in range(true.num_themes):  # so that those of one kind attract each other nowhere
        assert len(set(true.kind[true.theme == theme])) == (true.theme == theme).sum()
    np.testing.assert_allclose(
        attraction[leads_to], np.broadcast_to(0.5 * true.pull, leads_to.shape)[leads_to]
    )
    assert not np.allclose(attraction, attraction.T)
    # Theme by theme, the same strengths of attraction speak for and against.
    whole = np.bincount(true.theme)[true.theme] == NUM_KINDS
    for target in numbers[whole]:
        assert valence[target, same_theme[target]].sum() == 0
    for kind in range(NUM_KINDS):
        members = numbers[true.kind == kind]
        assert (valence[members] == valence[members[0]]).all()
        assert (valence[:, members] == valence[:, members[:1]]).all()


@pytest.mark.parametrize("num_categories", [1, 8, 9, 60])
@pytest.mark.parametrize("lead", [0.0, 0.5])
def test_the_table_has_all_pairs_with_an_attraction(num_categories, lead):
    config = replace(CONFIG, num_categories=num_categories, lead=lead)
    true = make_categories(config)
    expected = [
        (t, b, float(a), int(true.valence(np.array(t), clicked=np.array(b))))
        for t in range(num_categories)
        for b in range(num_categories)
        if (a := true.attraction(np.array(t), clicked=np.array(b))) > 0
    ]
    assert true.table().rows() == expected


def test_decay_starts_at_one_and_halves():
    weights = decay(CONFIG)
    assert weights[0] == 1
    assert weights[10] == 0.5
    assert (np.diff(weights) < 0).all()
    assert len(weights) == CONFIG.history_length


def test_items_are_drawn_by_popularity_within_themes():
    catalogue = make_catalogue(CONFIG, categories=make_categories(CONFIG))
    rng = np.random.default_rng(0)
    share = np.empty(CONFIG.num_items)
    share[catalogue.item] = np.diff(catalogue.share_below)
    assert np.sort(share)[::-1] == pytest.approx(
        np.arange(1, 501) ** -0.7 / (np.arange(1, 501) ** -0.7).sum()
    )
    themes = np.full((200, 500), 2)
    for wanted, drawn in (
        (share, catalogue.draw(themes=None, size=(200, 500), rng=rng)),
        (share * (catalogue.theme == 2), catalogue.draw(themes=themes, size=(200, 500), rng=rng)),
    ):
        counts = np.bincount(drawn.ravel(), minlength=CONFIG.num_items)
        expected = 100_000 * wanted / wanted.sum()
        assert (np.abs(counts - expected) <= 4.5 * np.sqrt(expected)).all()


# ------------------------------------------------------------------------------------- command
def test_all_mistakes_at_once():
    with pytest.raises(RunConfigError) as caught:
        HistoriesConfig(num_users=0, num_items=5, num_categories=6, base_rate=0.0, half_life=0.0)
    assert caught.value.mistakes == (
        "simulate: num_users is too small, got 0; allowed 1 or more",
        "simulate: num_items is too small, got 5; allowed num_categories (6) or more",
        "simulate: base_rate is no rate, got 0.0; allowed between 0 and 1",
        "simulate: half_life is too small, got 0.0; allowed above 0",
    )


def test_command_line(tmp_path, capsys):
    sizes = "--num-users 5 --num-items 6 --num-categories 4 --history-length 7"
    more = "--impressions-per-user 2 --seed 1 --kind histories"
    assert main([*f"{sizes} {more}".split(), "--out", str(tmp_path)]) == 0
    assert "45 events" in capsys.readouterr().out
    assert pl.read_parquet(tmp_path / "events.parquet").height == 45
    assert main(["--kind", "histories", "--num-items", "3", "--out", str(tmp_path / "x")]) == 2
    assert "allowed num_categories (9407) or more" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--kind", "histories", "-h"], 0, "--num-categories"),
        (["-h"], 0, "--num-events"),
        (["--kind", "clicks"], 2, "choose from"),
        (["--kind", "histories", "--num-events", "3", "--out", "x"], 2, "--num-events"),
    ],
)
def test_each_kind_has_its_own_options(arguments, code, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == code
    printed = capsys.readouterr()
    assert words in (printed.err if code else printed.out)
