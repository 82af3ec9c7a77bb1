from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from features.checking.result import check_file
from features.load import parse_feature_set

FEATURES = "[{names: [user, item, city], kind: categorical}]"


@pytest.fixture
def warnings(tmp_path):
    """Warnings by kind and subject, for columns and the YAML of a file."""

    def run(columns, features=FEATURES, *, top=""):
        pl.DataFrame(columns, strict=False).write_parquet(tmp_path / "e.parquet")
        text = f"""
sources: {{events: e.parquet}}
entity: {{user: user, item: item{", time: time" if "time" in columns else ""}}}
label: {{name: y}}
{top}
features: {features}
"""
        found = check_file(parse_feature_set(text, name="f"), tmp_path).warnings
        assert len({(w.kind, w.subject) for w in found}) == len(found)
        return {(w.kind, w.subject): w for w in found}

    return run


def log(num_rows=2_000, num_users=50, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "user": rng.integers(0, num_users, num_rows),
        "item": rng.integers(0, 60, num_rows),
        "city": [f"c{k}" for k in rng.integers(0, 8, num_rows)],
        "time": [datetime(2024, 1, 1) + timedelta(minutes=k) for k in range(num_rows)],
        "y": rng.integers(0, 2, num_rows),
    }


TEMPORAL = "split: {kind: temporal, fractions: [0.8, 0.1, 0.1]}"


def test_a_healthy_log_has_no_warnings(warnings):
    assert warnings(log(), top=TEMPORAL) == {}


def test_features_that_give_the_label_away(warnings):
    columns, rng = log(), np.random.default_rng(1)
    y = columns["y"]
    flips = rng.random(len(y)) < 0.02
    columns |= {
        "twin": y,
        "nearly": [("no", "yes")[k] for k in np.where(flips, 1 - y, y)],
        "number": y * 2.0 + rng.random(len(y)),
        "answered": np.where((y == 0) & (rng.random(len(y)) < 0.3), "never", "other"),
    }
    features = (
        "[{names: [user, item, city, twin, nearly, answered], kind: categorical},"
        " {name: number, kind: dense},"
        " {name: ranges, column: number, kind: bucketized, boundaries: [1, 2]}]"
    )
    found = warnings(columns, features, top=TEMPORAL)
    assert {subject for kind, subject in found if kind == "leak"} == {
        "twin", "nearly", "number", "ranges", "answered",
    }  # fmt: skip
    assert "is the label 'y'" in found["leak", "twin"].text
    assert found["leak", "nearly"].numbers["auc"] == pytest.approx(0.98, abs=0.01)
    assert "with 'never' (1" in found["leak", "answered"].text
    assert "always 0" in found["leak", "answered"].text


def test_events_of_the_test_that_training_has(warnings):
    columns = pl.DataFrame(log()).drop("time")
    doubled = pl.concat([columns, columns.head(500)]).with_columns(l=pl.lit([1, 2]))
    features = f"{FEATURES[:-1]}, {{name: l, kind: categorical}}]"
    found = warnings(doubled.to_dict(as_series=False), features, top="split: {kind: random}")
    share = found["identical_rows", "split"].numbers["share_of_test"]
    # A row of the test that is doubled (40%) has its twin in training (80%).
    assert share == pytest.approx(0.4 * 0.8, abs=0.08)
    assert warnings(log(), top="split: {kind: random}") == {}


def test_features_of_one_value(warnings):
    columns = log() | {
        "same": 7,
        "text": "x",
        "list": [["a"]] * 2_000,
        "late": [0] * 1_900 + [1] * 100,
    }
    features = (
        "[{names: [user, item, text, list], kind: categorical},"
        " {name: hashed, column: same, kind: categorical, encoding: {kind: hash, size: 5}},"
        " {name: same, kind: dense}, {name: late, kind: dense}]"
    )
    found = warnings(columns, features, top=TEMPORAL)
    assert {s for k, s in found if k == "one_value"} == {"text", "list", "hashed", "same", "late"}


def test_ids_that_occur_once(warnings):
    columns = log(6_000) | {"query": [f"q{k}" if k % 2 else f"f{k % 100}" for k in range(6_000)]}
    features = f"{FEATURES[:-1]}, {{name: query, kind: categorical, dim: 4}}]"
    found = warnings(columns, features, top="split: {kind: random, fractions: [0.9, 0.1, 0]}")
    rare = found["rare_ids", "query"]
    assert rare.numbers["values"] == rare.numbers["rows_saved_by_2"] + 50
    assert rare.numbers["share_once"] == pytest.approx(2_700 / 2_750, abs=0.01)
    assert rare.numbers["bytes_saved_by_2"] == rare.numbers["rows_saved_by_2"] * 16
    limited = features.replace("dim: 4", "dim: 4, encoding: {min_count: 2}")
    assert warnings(columns, limited, top="split: {kind: random, fractions: [0.9, 0.1, 0]}") == {}


def test_ids_and_users_that_training_has_not(warnings):
    columns = log()
    columns["user"] = [u if k < 1_700 else u + 25 for k, u in enumerate(columns["user"])]
    columns["city"] = [c if k < 1_850 or k % 2 else "new" for k, c in enumerate(columns["city"])]
    columns["tags"] = [["a", "a", "b"] if k < 1_900 else ["a", "z", "z"] for k in range(2_000)]
    features = f"{FEATURES[:-1]}, {{name: tags, kind: categorical}}]"
    found = warnings(columns, features, top="split: {kind: temporal, fractions: [0.8, 0.1, 0.1]}")
    users = columns["user"]
    known = set(users[:1_600])
    for part, rows in (("val", users[1_600:1_800]), ("test", users[1_800:])):
        numbers = found["unseen_entities", "user"].numbers
        of_events = np.mean([u not in known for u in rows])
        assert numbers[f"{part}_share_of_events"] == pytest.approx(of_events)
        of_users = np.mean([u not in known for u in set(rows)])
        assert numbers[f"{part}_share_of_users"] == pytest.approx(of_users)
    assert found["unseen_ids", "city"].numbers["test_share"] == pytest.approx(0.375, abs=0.13)
    assert found["unseen_ids", "tags"].numbers == pytest.approx(
        {"train_share": 0, "val_share": 0, "test_share": 1 / 3}
    ) or found["unseen_ids", "tags"].numbers["test_share"] == pytest.approx(1 / 3)
    assert ("unseen_ids", "user") not in found, "told once"


def test_what_min_count_leaves_out_is_no_drift(warnings):
    columns = log() | {"rare": [f"r{k}" if k % 2 else "often" for k in range(2_000)]}
    features = f"{FEATURES[:-1]}, {{name: rare, kind: categorical, encoding: {{min_count: 2}}}}]"
    assert warnings(columns, features, top=TEMPORAL) == {}
    drifts = features.replace(", encoding: {min_count: 2}", "")
    assert set(warnings(columns, drifts, top=TEMPORAL)) == {("unseen_ids", "rare")}


@pytest.mark.data
def test_movielens_has_a_column_that_says_half_of_it(tmp_path):
    import os
    from pathlib import Path

    text = """
sources: {events: ratings.parquet}
label: {name: liked, expr: "rating >= 4"}
features: [{names: [user_id, timestamp_exact], kind: categorical}]
"""
    data = Path(os.environ["RECSYS_DATA"]) / "ml-1m"
    [found] = check_file(parse_feature_set(text, name="f"), data).warnings
    assert (found.kind, found.subject) == ("leak", "timestamp_exact")
    assert "with False (17" in found.text
