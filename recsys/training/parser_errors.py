"""What jsonargparse says of a wrong argument, in the form of all other messages."""

from __future__ import annotations

import re

_NOISE = re.compile(
    "|".join(
        (
            r"Does not validate against any of the Union subtypes",
            r"Subtypes: .*",
            r"Errors:",
            r"- Expected a <class 'NoneType'>",
            r"- Expected a path but .* either not accessible or invalid",
            r"Given value(?: type)?: .*",
            r"Problem with given class_path '[^']*':",
            r"Type \S+\[.*?\] expects a function or a callable class: ",
            r"\. Got value: Namespace\(.*",
        )
    )
)
_IN_WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}
_MISSING = "the following arguments are required: "


def in_short(message: str) -> str:
    """One mistake per line: `where: what is wrong, got X`, without what encloses it.

    Args:
        message: Of jsonargparse's `ArgumentError`.
    """
    where = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    given = re.findall(r"Given value: (.*)", message)[-1:] if "model" not in where else []
    text = re.sub(r'Parser key "[^"]+":', "", _NOISE.sub("", message))
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", " ".join(text.split()))
    if _MISSING in text:
        before = f"{where}." if where else ""
        names = text.split(_MISSING)[1].split(", ")
        names = [re.sub(r"^(fit|validate|test)\.", "", name) for name in names]
        return "\n".join(
            f"{before}{name}: is missing; add it to the experiment file" for name in names
        )
    text = text.lstrip("- ").replace(". Got value: ", ", got ")
    for name, words in _IN_WORDS.items():
        text = text.replace(f"Expected a {name}", f"must be {words}")
    if given and "got " not in text:
        text += f", got {given[0]}"
    return f"{where or 'arguments'}: {text}"
