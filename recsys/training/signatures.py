"""What the parameters of a class may be, for checking a configuration against it."""

from __future__ import annotations

import inspect
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from importlib import import_module
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

_IN_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
}


def parameters(of: type) -> dict[str, Any]:
    """Types by name, in the order of the signature; `Any` where there is none."""
    try:
        types = get_type_hints(of.__init__)
    except (NameError, TypeError):  # imported for type checkers only
        types = {}
    names = list(inspect.signature(of).parameters)
    return {name: types.get(name, Any) for name in names}


def made_by(annotation: Any) -> tuple[type | None, Any]:
    """The class that a value of this type makes, and what it is called with, if anything.

    `Callable[[FieldLayout], Module]` makes a Module out of a FieldLayout.
    """
    options = [o for o in _options(annotation) if o is not type(None)]
    if len(options) != 1:
        return None, None
    [only] = options
    if get_origin(only) is Callable:
        arguments, made = get_args(only)
        return made, arguments[0]
    return (only, None) if isinstance(only, type) else (None, None)


def find_classes(name: str, base: type) -> list[str]:
    """Import paths of the subclasses that a name may mean; of an import path, it or nothing."""
    if "." not in name:
        return sorted({_import_path(c) for c in subclasses(base) if c.__name__ == name})
    found = import_class(name)
    return [name] if found is not None and issubclass(found, base) else []


def import_class(path: str) -> type | None:
    """The class at an import path; None where there is none."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) else None


def allowed_classes(base: type, *, like: str) -> list[str]:
    """Names that could have been meant.

    Args:
        base: They are subclasses of it.
        like: What was written: an import path asks for all of that module, a name for names.
    """
    found = [c for c in subclasses(base) if not inspect.isabstract(c)]
    module = like.rpartition(".")[0]
    if not module:
        return sorted({c.__name__ for c in found})
    there = vars(sys.modules.get(module, object))
    return sorted(f"{module}.{c.__name__}" for c in found if there.get(c.__name__) is c)


def subclasses(base: type) -> Iterator[type]:
    """All imported subclasses, of subclasses too."""
    for direct in base.__subclasses__():
        yield direct
        yield from subclasses(direct)


def is_accepted(value: Any, annotation: Any) -> bool:
    """Whether jsonargparse takes a value for a type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=annotation)
    try:
        parser.parse_object({"value": _as_lists(value)})
    except ArgumentError:
        return False
    return True


def in_words(annotation: Any) -> str:
    """A type as a person says it."""
    options = _options(annotation)
    if len(options) > 1:
        return " or ".join(in_words(option) for option in options)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin in (tuple, list):
        return f"a list with {in_words(inner[0])} each" if inner else "a list"
    if annotation in _IN_WORDS:
        return _IN_WORDS[annotation]
    if made_by(annotation)[0] is not None:
        return "a mapping with class_path and init_args"
    return str(annotation)


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _import_path(of: type) -> str:
    """The shortest module that has the class, and its name."""
    parts = of.__module__.split(".")
    paths = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    module = next(p for p in paths if vars(sys.modules[p]).get(of.__name__) is of or p == paths[-1])
    return f"{module}.{of.__name__}"


def _as_lists(value: Any) -> Any:
    """With lists for the tuples of a YAML tree, as jsonargparse gets them."""
    if isinstance(value, dict):
        return {key: _as_lists(inner) for key, inner in value.items()}
    return [_as_lists(inner) for inner in value] if isinstance(value, tuple) else value
