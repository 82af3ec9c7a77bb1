"""What jsonargparse says of a wrong argument, in the form of all other messages."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

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
_UNKNOWN = "unrecognized arguments: "
_MOST_MEANT = 3
_SHORT_SECTION = 12
_NO_CLASS = r"unknown class, got \1; allowed a name of a class that fits here, or its import path"


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
    text = re.sub(r"Expected a dot import path string: (\S+)", _NO_CLASS, text)
    for name, words in _IN_WORDS.items():
        text = text.replace(f"Expected a {name}", f"must be {words}")
    if given and "got " not in text:
        text += f", got {given[0]}"
    return f"{where or 'arguments'}: {text}"


def mistyped_options(message: str, *, known: Collection[str]) -> list[str]:
    """A mistake for each option that there is not, with the one that was meant, where that shows.

    Args:
        message: Of jsonargparse's `ArgumentError`; of another mistake the list is empty.
        known: Options without their dashes, `trainer.max_epochs` for one.
    """
    arguments = message.partition(_UNKNOWN)[2].split()
    options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    return [
        f"{option}: is no option; {_meant(option.removeprefix('--'), known)}"
        f"`python train.py fit --help` lists all"
        for option in options
    ]


def _meant(option: str, known: Collection[str]) -> str:
    """What is like it in its section, else all of a short section, else what is like it."""
    section, _, name = option.rpartition(".")
    within = [other for other in known if section and other.startswith(f"{section}.")]
    meant = _alike(name, within)
    if not meant and 0 < len(within) <= _SHORT_SECTION:
        return f"allowed {', '.join(f'--{other}' for other in sorted(within))}; "
    meant = meant or _alike(name, known)
    listed = " or ".join(f"--{other}" for other in sorted(meant)[:_MOST_MEANT])
    return f"did you mean {listed}? " if meant else ""


def _alike(name: str, options: Collection[str]) -> list[str]:
    """Options whose last part has its word, else is spelt most like it."""
    names = {option: option.rpartition(".")[2] for option in options}
    nearest = get_close_matches(name, names.values(), n=1)
    found = [option for option, its in names.items() if name in its.split("_")]
    return found or [option for option, its in names.items() if [its] == nearest]
