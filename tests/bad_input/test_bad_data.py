"""Data that does not fit: training and scoring say so alike, and leave nothing behind."""

import subprocess
import sys

import polars as pl
import pytest
from spoiling import edit_features, fit, in_row, score, spoil

import train

DATA_MISTAKES = {
    "missing column": (
        {"price": ...},
        r"features.log_price: no column 'price' in events.*did you mean",
    ),
    "wrong type": (
        {"price": pl.col("price").cast(pl.String)},
        r"features.log_price \(column 'price'\): must be a number or boolean, got type String",
    ),
    "NaN": (
        {"price": in_row(3, float("nan"), "price")},
        r"log_price \(column 'price'\): null or NaN in 1 rows, first in row 3, got nan; set `fill`",
    ),
    "null user": (
        {"user_id": in_row(5, None, "user_id")},
        r"entity.user \(column 'user_id'\): null in 1 rows, first in row 5, got None; drop such",
    ),
    "null item": (
        {"item_id": in_row(5, None, "item_id")},
        r"features.item_id \(column 'item_id'\): null in 1 rows, first in row 5, got None",
    ),
    "other key type": (
        {"item_id": pl.lit(1)},
        r"sources.items.on: key 'item_id' must be of one type.* Int32 in the events and String",
    ),
}
LABEL_MISTAKES = {
    "label 2": (
        {"click": in_row(7, 2, "click")},
        r"events.parquet: label.click \(column\): neither 0 nor 1 in 1 rows, .*row 7, got 2.0",
    ),
    "null label": ({"click": in_row(7, None, "click")}, r"label.click.*: null in 1 rows"),
    "no label": ({"click": ...}, r"label.click: no column 'click' in events"),
}


@pytest.mark.parametrize(("changes", "says"), DATA_MISTAKES.values(), ids=DATA_MISTAKES)
def test_data_to_train_on_and_to_score(inputs, place, refused, changes, says):
    spoil(place, changes)
    refused(fit, place, says=says)
    refused(score, inputs, place, says=says)


@pytest.mark.parametrize(("changes", "says"), LABEL_MISTAKES.values(), ids=LABEL_MISTAKES)
def test_labels_matter_to_training_alone(inputs, place, refused, changes, says):
    spoil(place, changes)
    refused(fit, place, says=says)
    assert score(inputs, place) == 0


def test_files(inputs, place, refused):
    file = place / "data" / "events.parquet"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"user_id,item_id\n"):
        file.write_bytes(content)
        says = r"data/events.parquet: is no readable Parquet file \(.+\); write it again"
        refused(fit, place, says=says)
        refused(score, inputs, place, says=says)
    pl.read_parquet(inputs / "data" / "events.parquet").clear().write_parquet(file)
    refused(fit, place, says="sources.events: has no rows, got events.parquet")
    refused(score, inputs, place, says="sources.events: has no rows, got events.parquet")


def test_a_damaged_page_inside_a_file(inputs, place, refused):
    file = place / "data" / "events.parquet"
    content = bytearray(file.read_bytes())
    content[200:3000] = bytes(2800)
    file.write_bytes(content)
    refused(fit, place, says=r"events.parquet: .*cannot be read")
    refused(score, inputs, place, says=r"data/events.parquet: .*cannot be read")


def test_a_fill_takes_the_place_of_nan(place):
    edit_features(place, "transform: log1p", "transform: log1p, fill: 3.5")
    spoil(place, {"price": in_row(3, float("nan"), "price")})
    assert fit(place) == 0


@pytest.mark.parametrize("split", ["[0.9, 0, 0.1]", "[0, 0.5, 0.5]"])
def test_an_empty_split(place, refused, split):
    edit_features(place, "label:", f"split: {{kind: temporal, fractions: {split}}}\nlabel:")
    refused(
        fit, place, says=r"no example to validate on \(val\), got 0; |no event trains, got|share"
    )


def test_a_process_ends_with_code_2_and_the_message_alone(place):
    spoil(place, {"price": ...})
    command = [sys.executable, train.__file__, "fit", "-c", str(place / "run.yaml")]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("features.log_price: no column 'price' in events, users, items")
    assert len(done.stderr.splitlines()) == 1
