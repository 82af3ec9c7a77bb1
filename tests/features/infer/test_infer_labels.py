"""What `init` takes for a label."""

import numpy as np
import pytest
from proposed import NUM_ROWS, base, line_of

from features.errors import DataError

rng = np.random.default_rng(5)
STARS = rng.integers(1, 6, NUM_ROWS)
COUNTS = rng.poisson(0.4, NUM_ROWS)
KINDS = [("view", "cart", "purchase")[k] for k in rng.choice(3, NUM_ROWS, p=[0.8, 0.15, 0.05])]


@pytest.mark.parametrize(
    ("column", "values", "name", "expr"),
    [
        ("converted", [k % 3 == 0 for k in range(NUM_ROWS)], "converted", None),
        ("IsBought", [float(k % 2) for k in range(NUM_ROWS)], "IsBought", None),
        ("was clicked", [k % 2 for k in range(NUM_ROWS)], "was_clicked", '"was clicked"'),
        ("rating", STARS, "liked", "rating >= 4"),
        ("stars", STARS * 2.0, "liked", "stars >= 8"),
        ("clicks", COUNTS, "any_clicks", "clicks > 0"),
        ("plays", COUNTS + 1, "many_plays", "plays > 1"),
        ("event_type", KINDS, "is_purchase", "event_type = 'purchase'"),
        ("purchased", [("No", "Yes")[k % 2] for k in range(NUM_ROWS)], "purchased_Yes", None),
        ("flag", [k % 2 for k in range(NUM_ROWS)], "flag", None),
    ],
)
def test_labels(look, column, values, name, expr):
    text, found = look({"click": None, column: values})
    [label] = found.label
    assert label.name == name
    assert expr is None or label.expr == expr
    assert column not in {getattr(f, "source_column", "") for f in found.features}
    doubtful = column in ("rating", "stars", "clicks", "plays", "event_type", "flag")
    assert ("guess: " in line_of(text, "label")) == doubtful


def test_rows_without_a_label_are_no_examples(look):
    values = [None if k % 5 == 0 else k % 2 for k in range(NUM_ROWS)]
    _, found = look({"click": values})
    assert found.label[0].where == "click is not null"
    stars = [float("nan") if k % 5 == 0 else float(k % 5) for k in range(NUM_ROWS)]
    _, found = look({"click": None, "rating": stars})
    assert found.label[0].where == "rating <= 4.0"


def test_no_label(look):
    with pytest.raises(DataError, match=r"no column looks like a label, got user_id.*--label"):
        look({"click": None})
    _, found = look({"click": None}, task="sequence")
    assert [f.kind for f in found.features] == ["categorical", "sequence"]
    assert found.feature("history").pooling == "none"
    assert found.labels == ()


def test_what_a_person_says_counts(look):
    columns = {"bought": [k % 2 for k in range(NUM_ROWS)], "buyer": base()["user_id"][::-1]}
    _, found = look(columns, asked={"label": "bought", "user": "buyer"})
    assert (found.labels, found.entity.user) == (("bought",), "buyer")
    with pytest.raises(DataError, match=r"--label: no column 'clik'.*did you mean 'click'"):
        look(asked={"label": "clik"})
    with pytest.raises(DataError, match="--label: column 'user_id' makes no label"):
        look(asked={"label": "user_id"})
    with pytest.raises(DataError, match="--time: column 'user_id' cannot order events"):
        look(asked={"time": "user_id"})
