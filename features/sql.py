"""SQL expressions of a feature file, checked without data."""

from __future__ import annotations

import json
from functools import lru_cache

import polars as pl

from features.sql_tree import reads_one_row


@lru_cache(maxsize=4096)
def parse_sql(text: str) -> pl.Expr:
    """The polars expression of an SQL expression that reads one row at a time.

    Raises:
        ValueError: it does not parse, reads no column, or looks at several rows.
    """
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


def columns_of(text: str) -> tuple[str, ...]:
    """Columns that an SQL expression reads."""
    return tuple(dict.fromkeys(parse_sql(text).meta.root_names()))
