"""Expressions of polars as trees of JSON: what stands in them, and whether they read one row."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

# Where the inputs of a node are, by its kind. What `Eval` does with a list's elements is no part.
PARTS = {
    "BinaryExpr": ("left", "right"),
    "Cast": ("expr",),
    "Eval": ("expr",),
    "Function": ("input",),
    "Ternary": ("predicate", "truthy", "falsy"),
}

# All that SQL can call which gives one value per row; polars has no list of them.
_OF_ONE_ROW = frozenset(
    {
        "Abs", "ArrayExpr", "Atan2", "Bitwise.CountOnes", "Boolean.IsNotNull", "Boolean.IsNull",
        "Boolean.Not", "Ceil", "Clip", "Coalesce", "Erf", "Exp", "FillNull", "Floor", "ListExpr",
        "Log", "Log1p", "MaxHorizontal", "MinHorizontal", "Pow", "Range.IntRanges", "Sign", "Sql",
        "StringExpr", "StructExpr", "TemporalExpr", "Trigonometry", "Truncate",
    }
)  # fmt: skip


def reads_one_row(node: Any) -> bool:
    """Whether a serialised expression has nothing but what is known to read one row at a time."""
    if isinstance(node, list):
        return all(reads_one_row(part) for part in node)
    if not isinstance(node, dict):
        return False
    ((kind, body),) = node.items()
    if kind in ("Column", "Literal"):
        return True
    if kind not in PARTS or (kind == "Function" and not is_one_of(body["function"], _OF_ONE_ROW)):
        return False
    return all(reads_one_row(body[part]) for part in PARTS[kind])


def is_one_of(function: Any, names: Collection[str]) -> bool:
    """Whether a function has one of the names, or is of a family that has.

    Args:
        function: As polars writes it: `"Abs"`, `{"TemporalExpr": "Hour"}`, `{"Sql": {"Binary":
            "Mul"}}`.
        names: Dotted, such as `Abs`, `TemporalExpr.Hour`, `Sql.Binary.Mul`, `Sql`.
    """
    path = ""
    while isinstance(function, dict) and len(function) == 1:
        ((name, function),) = function.items()
        path += name
        if path in names:
            return True
        path += "."
    return isinstance(function, str) and path + function in names
