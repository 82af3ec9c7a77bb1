"""Checks an experiment file by the signatures it fills: all mistakes at once, with their lines.

jsonargparse stops at the first mistake, names the whole of `model` for one in a corner of it, and
lets duplicate keys and empty unknown ones pass. It still reads the file afterwards.
"""

from __future__ import annotations

import inspect
from argparse import ArgumentParser
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from features.errors import FeatureConfigError, RunConfigError, did_you_mean
from features.messages import got
from features.yaml_tree import YamlTree, parse_yaml
from recsys.training.signatures import (
    allowed_classes,
    find_classes,
    import_class,
    in_words,
    is_accepted,
    made_by,
    parameters,
)

YamlPath = tuple[str | int, ...]

_MOST_LISTED = 20


def check_experiment_file(
    file: Path, *, keys: Collection[str], sections: Mapping[str, type], linked: Mapping[str, str]
) -> None:
    """Read an experiment file and check its keys, class names and values.

    Args:
        file: YAML.
        keys: What is allowed at the top.
        sections: The class that the mapping below a key fills; where it is abstract, the mapping
            names a subclass.
        linked: Keys that cannot be given, since they follow from another.

    Raises:
        RunConfigError: with all mistakes of the file.
    """
    try:
        tree = parse_yaml(file.read_text(encoding="utf-8"), name=str(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no UTF-8 text"
        raise RunConfigError(f"{file}: cannot be read: {reason}; name a YAML file") from None
    except FeatureConfigError as error:
        raise RunConfigError(error.mistakes) from None
    check = _Check(tree, linked=linked)
    check.top(keys, sections)
    if check.mistakes:
        raise RunConfigError(check.mistakes)


def experiment_files(arguments: Sequence[str]) -> list[Path]:
    """What `-c` and `--config` name on a command line, in its order."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[], type=Path)
    return parser.parse_known_args(list(arguments))[0].config


def keys_of_file(file: Path) -> list[str]:
    """The keys of an experiment file that has been checked, with those of what encloses them."""
    return [*_keys(parse_yaml(file.read_text(encoding="utf-8"), name=str(file)).value)]


def _keys(content: Any) -> Iterator[str]:
    for key, value in content.items() if isinstance(content, dict) else ():
        yield str(key)
        yield from (f"{key}.{inner}" for inner in _keys(value))


class _Check:
    """Walks a file beside the signatures."""

    def __init__(self, tree: YamlTree, *, linked: Mapping[str, str]) -> None:
        self.tree = tree
        self.linked = linked
        self.mistakes = list(tree.mistakes)

    def top(self, keys: Collection[str], sections: Mapping[str, type]) -> None:
        """The whole file."""
        content = self.tree.value
        if not isinstance(content, dict):
            what = "an empty file" if content is None else got(content)
            self.complain((), f"must be a mapping, got {what}; allowed keys {', '.join(keys)}")
            return
        for key, value in content.items():
            if self.is_allowed((key,), keys) and key in sections and isinstance(value, dict):
                if inspect.isabstract(sections[key]):
                    self.instance((key,), value, sections[key])
                else:
                    self.entries((key,), value, parameters(sections[key]))

    def entries(self, path: YamlPath, content: dict[str, Any], types: Mapping[str, Any]) -> None:
        """A mapping that fills a signature."""
        for key, value in content.items():
            if self.is_allowed((*path, key), types) and key in types:
                self.value((*path, key), value, types[key])

    def value(self, path: YamlPath, value: Any, annotation: Any) -> None:
        """A value for a parameter."""
        made, argument = made_by(annotation)
        if made is not None and isinstance(value, dict) and is_dataclass(made):
            self.entries(path, value, parameters(made))
        elif made is not None and isinstance(value, dict) and "class_path" in value:
            self.instance(path, value, made, argument=argument)
        elif not is_accepted(value, annotation):
            self.complain(path, f"does not fit, got {got(value)}; allowed {in_words(annotation)}")

    def instance(
        self, path: YamlPath, content: dict[str, Any], base: type, *, argument: Any = None
    ) -> None:
        """A class and its arguments, but for the `argument` that it gets when it is made."""
        for key in content:
            self.is_allowed((*path, key), ("class_path", "init_args", "dict_kwargs"))
        name, arguments = content.get("class_path"), content.get("init_args")
        found = find_classes(name, base) if isinstance(name, str) else []
        if len(found) != 1:
            what = "several classes have this name" if found else "unknown class"
            names = found or allowed_classes(base, like=str(name))
            listed = f"; allowed {', '.join(names)}" if len(names) <= _MOST_LISTED else ""
            hint = did_you_mean(str(name), names)
            self.complain((*path, "class_path"), f"{what}, got {got(name)}{listed}{hint}")
            return
        chosen = import_class(found[0])
        if chosen is not None and isinstance(arguments, dict):
            types = parameters(chosen)
            if argument is not None:
                types.pop(next(iter(types)))
            self.entries((*path, "init_args"), arguments, types)

    def is_allowed(self, path: YamlPath, keys: Collection[str]) -> bool:
        """Whether the last key of a path may stand there."""
        key, *above = reversed([str(part) for part in path])
        source = self.linked.get(".".join(map(str, path)))
        if source is not None:
            self.complain(path, f"follows from {source}; give that one instead")
            return False
        keys = [k for k in keys if ".".join([*reversed(above), k]) not in self.linked]
        # A key may lead deeper by dots; jsonargparse judges the rest of it.
        if key.partition(".")[0] not in keys:
            allowed = ", ".join(keys) if len(keys) <= _MOST_LISTED else ""
            hint = did_you_mean(key, keys)
            self.complain(path, f"unknown key{f'; allowed {allowed}' if allowed else ''}{hint}")
            return False
        return True

    def complain(self, path: YamlPath, message: str) -> None:
        """Note a mistake."""
        label = "".join(f"{part}." for part in path)[:-1]
        self.mistakes.append(f"{self.tree.where(path)}: {label}{': ' if label else ''}{message}")
