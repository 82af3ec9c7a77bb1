"""Columns to infer a feature file from, and what the file says."""

import re
from datetime import datetime, timedelta

import numpy as np

NUM_ROWS = 600


def base(num_rows=NUM_ROWS, seed=0) -> dict:
    """Clicks of 30 users on 40 items over 20 days; nothing says the label."""
    rng = np.random.default_rng(seed)
    return {
        "user_id": [f"u{k}" for k in rng.integers(0, 30, num_rows)],
        "item_id": rng.integers(0, 40, num_rows),
        "timestamp": [datetime(2024, 1, 1) + timedelta(minutes=48 * k) for k in range(num_rows)],
        "click": rng.integers(0, 2, num_rows),
    }


def line_of(text, name):
    return next(line for line in text.splitlines() if re.search(rf"\b{name}\b", line))


def left_out(text):
    after = text.partition("# left out:")[2].replace("\n#  ", "\n")
    return re.sub(r"\s+", " ", after)
