from textwrap import dedent

import polars as pl
import pytest

from features.columns import ROW, SPLIT
from features.load import parse_feature_set


@pytest.fixture(scope="session")
def feature_file():
    """Feature set from lines of features and further top-level YAML."""

    def build(*features: str, top: str = "", sources: str = "{events: events.parquet}"):
        lines = "\n".join(f"  - {{{feature}}}" for feature in features)
        text = f"sources: {sources}\n{dedent(top).strip()}\nfeatures:\n{lines}\n"
        return parse_feature_set(text, name="features.yaml")

    return build


@pytest.fixture(scope="session")
def events():
    """A frame as `scan_events` and `assign_split` give it; all rows train unless said."""

    def build(data: dict, *, split: list | None = None, schema: dict | None = None):
        frame = pl.DataFrame(data, schema_overrides=schema, strict=False)
        splits = pl.Series(SPLIT, split or ["train"] * len(frame), dtype=pl.String)
        rows = pl.int_range(len(frame), dtype=pl.Int64, eager=True).alias(ROW)
        return frame.with_columns(rows, splits).lazy()

    return build
