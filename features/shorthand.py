"""Short ways to write things, written out: the YAML's plain values in the shape of the types."""

from __future__ import annotations

from typing import Any

from features.table_spec import ROLES


def expand_source(value: Any) -> Any:
    """`ratings.parquet` or a list of files -> {path: ...}."""
    return {"path": value} if isinstance(value, str | tuple) else value


def expand_entity(value: Any) -> Any:
    """`time: user_pos` -> `time: {column: user_pos}`."""
    if isinstance(value, dict) and isinstance(value.get("time"), str):
        return {**value, "time": {"column": value["time"]}}
    return value


def expand_table(value: Any) -> Any:
    """A table that names no scheme is full, also within a decoupled one."""
    if value is None:
        return {"scheme": "full"}
    if not isinstance(value, dict):
        return value
    roles = {role: expand_table(value[role]) for role in ROLES if role in value}
    return {"scheme": "full", **value, **roles}


def expand_feature(value: Any) -> tuple[tuple[tuple[str | int, ...], Any], ...]:
    """`encoding: hash` -> {kind: hash}; `names: [a, b]` -> two features.

    Gives each feature with the place of its name below the entry.
    """
    if not isinstance(value, dict):
        return (((), value),)
    if isinstance(value.get("encoding"), str):
        value = {**value, "encoding": {"kind": value["encoding"]}}
    elif isinstance(value.get("encoding"), dict) and "kind" not in value["encoding"]:
        value = {**value, "encoding": {"kind": "vocab", **value["encoding"]}}
    names = value.get("names")
    if isinstance(names, tuple) and names and "name" not in value:
        rest = {key: entry for key, entry in value.items() if key != "names"}
        return tuple((("names", k), {"name": name, **rest}) for k, name in enumerate(names))
    return (((), value),)


def expand_split(value: Any) -> Any:
    """`split: leave_one_out` -> {kind: leave_one_out}."""
    return {"kind": value} if isinstance(value, str) else value
