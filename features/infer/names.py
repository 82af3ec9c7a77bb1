"""What the names of columns say: words, and names and texts of the feature file made of them."""

from __future__ import annotations

import re

from features.columns import TAKEN_NAMES
from features.consistency import NAME
from features.sql import columns_of

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./]*(?:-[A-Za-z0-9_./]+)*")
_NOT_PLAIN = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
ID_WORDS = frozenset({"id", "ids", "key", "code", "no", "idx", "index", "hash", "uuid", "guid"})
_ENDS_IN_ID = re.compile(r"([a-z]{2,})(id|idx|key|code)")


def words_of(name: str) -> tuple[str, ...]:
    """Lower-case words of a name: `userId`, `user_id` and `userid` have the same."""
    found: list[str] = []
    for word in _WORD.findall(name):
        match = _ENDS_IN_ID.fullmatch(word.lower())
        found += match.groups() if match else [word.lower()]
    return tuple(found)


def feature_name(column: str, *, taken: set[str]) -> str:
    """A valid name for what is made of a column, unlike the ones that are taken."""
    name = _valid(column, otherwise="column")
    if name in TAKEN_NAMES:
        name += "_value"
    return _free(name, taken)


def source_name(stem: str, *, taken: set[str]) -> str:
    """A valid name for a table of attributes, of the name of its file."""
    return _free(_valid(stem, otherwise="attributes"), taken)


def _valid(text: str, *, otherwise: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")
    if NAME.fullmatch(name):
        return name
    return f"{otherwise}_{name}" if name else otherwise


def _free(name: str, taken: set[str]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def yaml_text(text: str) -> str:
    """A text as a plain or quoted value of YAML, also within brackets."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN:
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    shown = "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped)
    return f'"{shown}"'


def yaml_quoted(text: str) -> str:
    """An SQL expression as YAML."""
    quoted = yaml_text(text)
    return quoted if quoted.startswith('"') else f'"{quoted}"'


def sql_name(column: str) -> str:
    """A column as SQL expressions name it."""
    if re.fullmatch(r"[a-z][a-z0-9_]*", column):
        try:
            if columns_of(f"{column} = 1") == (column,):
                return column
        except ValueError:
            pass  # a word of SQL
    doubled = column.replace('"', '""')
    return f'"{doubled}"'


def sql_text(text: str) -> str:
    """A text as SQL writes it."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
