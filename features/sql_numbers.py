"""How SQL counts: in 64-bit signed integers, whatever a column's type, and without NaN.

polars keeps the narrowest type, in which a difference of unsigned numbers or an hour times 60 wraps
around, and takes NaN for the largest number. Types are unknown before there is data, so selectors
choose by type when the expression is computed.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import polars as pl
import polars.selectors as cs

from features.sql_tree import PARTS, is_one_of

_ARITHMETIC = frozenset(
    {"Plus", "Minus", "Multiply", "Modulus"}
    | {f"{kind}Divide" for kind in ("Rust", "True", "Floor", "Trunc")}
)
_COMPUTING = frozenset(
    {"Abs", "ListExpr", "Pow", "Sql.Round"}
    | {f"Sql.Binary.{name}" for name in ("Plus", "Minus", "Mul", "Div", "Rem", "IntDiv")}
)
# Give back one of their inputs: where the result is computed with, so are these.
_CHOOSING = frozenset(
    {
        "Ceil", "Clip", "Coalesce", "FillNull", "Floor", "MaxHorizontal", "MinHorizontal", "Sign",
        "Sql.ToFloat", "Truncate",
    }
)  # fmt: skip
_NARROW = frozenset(
    {"Bitwise.CountOnes", "Boolean", "ListExpr.Contains", "ListExpr.Length", "Sql.IsIn"}
    | {f"Sql.Binary.{name}" for name in ("Eq", "EqMissing", "Lt", "LtEq", "Gt", "GtEq")}
    | {f"StringExpr.{name}" for name in ("Contains", "EndsWith", "StartsWith")}
    | {f"StringExpr.{name}" for name in ("Find", "LenBytes", "LenChars")}
    | {f"TemporalExpr.{name}" for name in ("Millennium", "Century", "IsoYear", "Year", "Quarter")}
    | {f"TemporalExpr.{name}" for name in ("Month", "Week", "OrdinalDay", "WeekDay", "Day")}
    | {f"TemporalExpr.{name}" for name in ("Hour", "Minute", "Second", "Nanosecond")}
)
_NARROW_TYPES = ("Int8", "Int16", "Int32", "UInt8", "UInt16", "UInt32", "Boolean")
_NARROW_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32)
_GIVING_NAN = frozenset({"Log", "Log1p", "Pow", "Sql.Binary.Div", "Sql.Binary.Rem", "Trigonometry"})


def exact(node: Any, *, computes: bool = False) -> Any:
    """A serialised expression that computes in 64 bits, and to which NaN is null.

    Args:
        node: One of which `features.sql_tree.reads_one_row` holds.
        computes: Whether a number is computed of its result; else the result keeps its type.
    """
    ((kind, body),) = node.items()
    match kind:
        case "Column":
            return _column(body, computes=computes)
        case "Literal":
            number = body["Dyn"].get("Int") if computes and "Dyn" in body else None
            return node if number is None else {"Literal": {"Scalar": {"Int64": number}}}
        case "Function":
            return _function(body, computes=computes)
        case "BinaryExpr" if body["op"] in _ARITHMETIC:
            return {kind: body | {part: _operand(body[part]) for part in PARTS[kind]}}
        case "Ternary":
            parts = {part: exact(body[part], computes=computes) for part in PARTS[kind]}
            return {kind: parts | {"predicate": exact(body["predicate"])}}
        case "BinaryExpr":
            parts = {part: exact(body[part]) for part in PARTS[kind]}
            return _int64({kind: body | parts}, where=computes)
        case "Cast":
            inner = {kind: body | {"expr": exact(body["expr"])}}
            dtype = body["dtype"].get("Literal")
            if dtype in ("Float32", "Float64"):
                return _without_nan(inner)
            return _int64(inner, where=computes and dtype in _NARROW_TYPES)
    return {kind: body | {part: exact(body[part]) for part in PARTS[kind]}}


def _function(body: dict[str, Any], *, computes: bool) -> Any:
    function = body["function"]
    if is_one_of(function, _COMPUTING):
        inputs = [_operand(part) for part in body["input"]]
    else:
        passes = computes and is_one_of(function, _CHOOSING)
        inputs = [exact(part, computes=passes) for part in body["input"]]
    found = {"Function": body | {"input": inputs}}
    if is_one_of(function, _GIVING_NAN):
        return _without_nan(found)
    return _int64(found, where=computes and is_one_of(function, _NARROW))


def _operand(node: Any) -> Any:
    """What arithmetic computes with; numbers in the text take the type of the other operand."""
    return node if "Literal" in node else exact(node, computes=True)


def _int64(node: Any, *, where: bool) -> Any:
    if not where:
        return node
    return {"Cast": {"expr": node, "dtype": {"Literal": "Int64"}, "options": "Strict"}}


def _without_nan(node: Any) -> Any:
    """A result of any type, null where it is NaN."""
    as_float = {"Cast": {"expr": node, "dtype": {"Literal": "Float64"}, "options": "NonStrict"}}
    is_nan = {"Function": {"input": [as_float], "function": {"Boolean": "IsNan"}}}
    null = {"Literal": {"Scalar": {"Null": "Null"}}}
    return {"Ternary": {"predicate": is_nan, "truthy": null, "falsy": node}}


@lru_cache(maxsize=4096)
def _column(name: str, *, computes: bool) -> Any:
    """A column, of which selectors leave the one input that fits its type.

    Unsigned 64-bit numbers are computed with in 128 bits, as not all of them fit 64.
    """
    column, floats = cs.by_name(name), cs.float()
    choices = [(column & floats).fill_nan(None)]
    others = column - floats
    if computes:
        large, narrow = cs.by_dtype(pl.UInt64), cs.boolean() | cs.by_dtype(*_NARROW_INTEGERS)
        lists = cs.list(cs.by_dtype(*_NARROW_INTEGERS))
        choices += [
            (column & narrow).cast(pl.Int64),
            (column & large).cast(pl.Int128),
            (column & lists).cast(pl.List(pl.Int64)),
        ]
        others = others - narrow - large - lists
    return json.loads(pl.coalesce(*choices, others).meta.serialize(format="json"))
