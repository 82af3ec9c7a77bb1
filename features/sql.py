"""SQL expressions of a feature file, checked without data."""

from __future__ import annotations

import json
from functools import lru_cache

import polars as pl

from features.sql_numbers import exact
from features.sql_tree import reads_one_row


@lru_cache(maxsize=4096)
def parse_sql(text: str) -> pl.Expr:
    """The polars expression of an SQL expression that reads one row at a time.

    It counts in 64-bit signed integers, and a NaN is null to it. The name of a column alone gives
    the column as it is.

    Raises:
        ValueError: it does not parse, reads no column, or looks at several rows.
    """
    parsed = _parsed(text)
    if parsed.meta.is_column():
        return parsed
    tree = json.loads(parsed.meta.serialize(format="json"))
    return pl.Expr.deserialize(json.dumps(exact(tree)).encode(), format="json")


def columns_of(text: str) -> tuple[str, ...]:
    """Columns that an SQL expression reads.

    Raises:
        ValueError: as `parse_sql`.
    """
    return tuple(dict.fromkeys(_parsed(text).meta.root_names()))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> pl.Expr:
    try:
        expression = pl.sql_expr(text).meta.undo_aliases()
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"no valid SQL expression, got {text!r} ({error})") from None
    if not expression.meta.root_names():
        raise ValueError(f"reads no column, got {text!r}; an expression must name one")
    if not reads_one_row(json.loads(expression.meta.serialize(format="json"))):
        raise ValueError(
            f"looks at several rows, got {text!r}; allowed are expressions of one row's columns"
        )
    return expression
