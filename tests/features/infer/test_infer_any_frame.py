"""Whatever the columns, the file that `init` proposes fits them."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.checking.result import check_file
from features.errors import DataError
from features.infer.proposal import infer
from features.infer.text import feature_text
from features.load import parse_feature_set

VALUES = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "small": st.integers(0, 3),
    "clock": st.integers(1_600_000_000, 1_700_000_000),
    "float": st.floats(allow_nan=True, allow_infinity=True),
    "text": st.text(max_size=6),
    "bool": st.booleans(),
    "bit": st.integers(0, 1),
    "date": st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)),
    "list": st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=3),
    "floats": st.lists(st.floats(-1, 1), min_size=2, max_size=2),
}
DTYPES = {
    "int": pl.Int64, "small": pl.UInt64, "clock": pl.Int64, "float": pl.Float64, "text": pl.String,
    "bool": pl.Boolean, "bit": pl.Int8, "date": pl.Datetime("us"), "list": pl.List(pl.Int64),
    "floats": pl.List(pl.Float64),
}  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(["user_id", "item", "rating", "ts", "click", "price", "tags", "pos", "Label"]),
    st.text(min_size=1, max_size=8).filter(lambda name: not name.startswith("_")),
)


@st.composite
def frames(draw):
    num_rows = draw(st.integers(1, 12))
    names = draw(st.lists(NAMES, min_size=1, max_size=7, unique_by=str.lower))
    columns = {}
    for name in names:
        kind = draw(st.sampled_from(sorted(VALUES)))
        values = VALUES[kind]
        if draw(st.booleans()):
            values = st.one_of(st.none(), values)
        cells = draw(st.lists(values, min_size=num_rows, max_size=num_rows))
        columns[name] = pl.Series(cells, dtype=DTYPES[kind])
    return pl.DataFrame(columns)


class TooFewRows(Exception):
    """Training has no row, or none with a number."""


def check(feature_set, directory):
    try:
        check_file(feature_set, directory)
    except DataError as error:
        if all("no event trains" in m or "no training row" in m for m in error.mistakes):
            raise TooFewRows from None
        raise


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(frames(), st.sampled_from(["ranking", "sequence"]))
def test_any_frame_gives_a_file_that_its_data_fits_or_a_reason(tmp_path, frame, task):
    file = Path(tmp_path) / "events.parquet"
    frame.write_parquet(file)
    try:
        proposal = infer([file], task=task, asked={})
    except DataError:
        return
    feature_set = parse_feature_set(feature_text(proposal), name="f.yaml")
    with suppress(TooFewRows):
        check(feature_set, Path(tmp_path))
