"""YAML as plain values, with the line of every key; all duplicate keys at once."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from features.errors import FeatureConfigError

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlTree:
    """A parsed file.

    Attributes:
        name: What messages call the file.
        value: Plain dicts, lists and scalars; lists are tuples and dates ISO texts.
        lines: Line, from 1, of each path of keys and positions.
        mistakes: Duplicate keys and what plain YAML does not know.
    """

    name: str
    value: Any
    lines: dict[Path, int] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)

    def where(self, path: Path) -> str:
        """`file:line` of a path, or of the nearest enclosing one that was written."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines.get(path, 1)}"


def parse_yaml(text: str, *, name: str) -> YamlTree:
    """Parse YAML 1.2.

    Args:
        text: The document.
        name: What messages call it.

    Raises:
        FeatureConfigError: the text is no YAML.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except (MarkedYAMLError, ReaderError) as error:
        raise FeatureConfigError(f"{name}:{_syntax_mistake(error, text)}") from None
    reader = _Reader(yaml=yaml, name=name)
    value = None if root is None else reader.read(root, path=())
    return YamlTree(name=name, value=value, lines=reader.lines, mistakes=reader.mistakes)


def _syntax_mistake(error: MarkedYAMLError | ReaderError, text: str) -> str:
    """Line and reason."""
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{line}: no valid YAML: character {text[error.position]!r} is not allowed; drop it"
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    context = f" {error.context}" if error.context else ""
    return (
        f"{line}: no valid YAML{context}: {error.problem}; check brackets, quotes, colons and "
        f"indentation"
    )


class _Reader:
    """Walks the nodes of one document."""

    def __init__(self, *, yaml: YAML, name: str) -> None:
        self.constructor = yaml.constructor
        self.name = name
        self.lines: dict[Path, int] = {}
        self.mistakes: list[str] = []
        self.open: set[int] = set()

    def read(self, node: Node, *, path: Path) -> Any:
        """The plain value of a node."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self.open:
            self._complain(node, path, "an alias that contains itself; write the value out")
            return None
        self.open.add(id(node))
        try:
            match node:
                case MappingNode():
                    return self._mapping(node, path)
                case SequenceNode():
                    return tuple(
                        self.read(item, path=(*path, i)) for i, item in enumerate(node.value)
                    )
                case _:
                    return self._scalar(node, path)
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        inherited: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            inner = (*path, key)
            if str(key_node.tag) == "tag:yaml.org,2002:merge":
                merged = self.read(value_node, path=inner)
                for base in merged if isinstance(merged, tuple) else (merged,):
                    inherited = {**base, **inherited} if isinstance(base, dict) else inherited
            elif not isinstance(key_node, ScalarNode):
                self._complain(key_node, path, "a key must be plain text")
            elif key in result:
                first = self.lines[inner]
                self._complain(
                    key_node, inner, f"duplicate key, first on line {first}; drop one of them"
                )
            else:
                self.lines[inner] = key_node.start_mark.line + 1
                result[key] = self.read(value_node, path=inner)
        return {**inherited, **result}

    def _scalar(self, node: Node, path: Path) -> Any:
        if not str(node.tag).startswith("tag:yaml.org,2002:"):
            self._complain(node, path, f"unknown tag {node.tag}; drop it")
            return None
        try:
            value = self.constructor.construct_object(node)
        except (ValueError, YAMLError):
            self._complain(node, path, f"no valid value, got {node.value!r}; quote a text")
            return None
        if isinstance(value, datetime.date):
            return value.isoformat()
        return value

    def _complain(self, node: Node, path: Path, what: str) -> None:
        line = node.start_mark.line + 1
        label = ".".join(str(part) for part in path)
        self.mistakes.append(
            f"{self.name}:{line}: {label}: {what}" if label else f"{self.name}:{line}: {what}"
        )
