"""Pydantic's findings in the words of the feature file: path, what is wrong, got, allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from features.errors import did_you_mean

Path = tuple[str | int, ...]

EXPECTED = {
    "string_type": "text",
    "string_unicode": "valid Unicode text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "finite_number": "a finite number",
}

_ABSENT = object()


def findings(error: ValidationError, *, model: Any, data: Any) -> list[tuple[Path, str]]:
    """One (path, message) per mistake; the path leads through `data` to what is wrong.

    Args:
        error: What pydantic raised.
        model: The type that was validated against.
        data: What was validated.
    """
    grouped: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        path = _path_in(data, detail)
        grouped.setdefault(path, []).append(detail)
    return [_message(path, details, model=model) for path, details in grouped.items()]


def got(value: Any) -> str:
    """A value as the message shows it."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, tuple):
        return "[" + ", ".join(got(item) for item in value) + "]"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


def _path_in(data: Any, detail: ErrorDetails) -> Path:
    """The location without pydantic's names of union members."""
    path: list[str | int] = []
    at = data
    for i, part in enumerate(detail["loc"]):
        is_last = i == len(detail["loc"]) - 1
        inner = _inside(at, part)
        if inner is not _ABSENT:
            at = inner
        elif not (is_last and detail["type"] == "missing"):
            continue
        path.append(part)
    return tuple(path)


def _inside(at: Any, part: str | int) -> Any:
    """An entry of a mapping or list, or `_ABSENT`."""
    if isinstance(at, tuple) and isinstance(part, int):
        return at[part] if part < len(at) else _ABSENT
    return at.get(part, _ABSENT) if isinstance(at, Mapping) else _ABSENT


def _message(path: Path, details: list[ErrorDetails], *, model: Any) -> tuple[Path, str]:
    detail = details[0]
    context = detail.get("ctx", {})
    value = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            allowed = sorted(_keys_at(model, detail["loc"][:-1]))
            hint = did_you_mean(str(path[-1]), allowed)
            return path, f"unknown key; allowed {', '.join(allowed)}{hint}"
        case "missing" if isinstance(detail["loc"][-1], int):
            return path[:-1], f"list too short, got {got(value)}"
        case "missing":
            return path, "missing; add it"
        case "union_tag_not_found":
            key = str(context["discriminator"]).strip("'")
            return (*path, key), f"missing; add it, allowed {_choices(model, detail['loc'])}"
        case "union_tag_invalid":
            key = str(context["discriminator"]).strip("'")
            allowed = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
            tag = str(context["tag"])
            hint = did_you_mean(tag, allowed)
            message = f"unknown {key}, got {tag!r}; allowed {', '.join(allowed)}{hint}"
            return (*path, key), message
        case "value_error":
            key, _, text = str(context["error"]).partition(": ")
            return (*path, key), text
        case "too_long" | "too_short":
            size = context.get("max_length", context.get("min_length"))
            return path, f"must be a list of {size}, got {got(value)}"
        case "greater_than_equal":
            return path, f"must be at least {context['ge']}, got {got(value)}"
        case "greater_than":
            return path, f"must be above {context['gt']}, got {got(value)}"
        case _:
            expected = " or ".join(dict.fromkeys(_expected(d) for d in details))
            hint = ""
            if detail["type"] == "literal_error":
                hint = did_you_mean(str(value), str(context["expected"]).replace("'", "").split())
            return path, f"must be {expected}, got {got(value)}{hint}"


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] == "literal_error":
        return str(detail.get("ctx", {})["expected"])
    return EXPECTED.get(detail["type"], "of another form")


def _choices(model: Any, loc: tuple[int | str, ...]) -> str:
    tags = (tag for member in _models_at(model, loc) for tag in _tags(member))
    return ", ".join(dict.fromkeys(tags))


def _keys_at(model: Any, loc: tuple[int | str, ...]) -> set[str]:
    """Field names of the model at a location."""
    return {key for member in _models_at(model, loc) for key in member.model_fields}


def _models_at(model: Any, loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The models that may stand at a location; a tag of a union picks one of them."""
    models = _models_in(model)
    for part in loc:
        tagged = [member for member in models if part in _tags(member)]
        fields = [member.model_fields[part] for member in models if part in member.model_fields]
        if tagged:
            models = tagged
        elif fields:
            models = [inner for info in fields for inner in _models_in(info.annotation)]
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """All models named in a type."""
    if get_origin(annotation) is None:
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return [annotation] if is_model else []
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """Values of the literal that tells the members of a union apart."""
    for key in ("kind", "scheme"):
        info = model.model_fields.get(key)
        if info is not None and get_origin(info.annotation) is Literal:
            return get_args(info.annotation)
    return ()
