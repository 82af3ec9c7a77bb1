"""Which names of two feature files mean the same, as `renamed_from` says."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from features.spec import FeatureSet

YamlPath = tuple[str | int, ...]
FirstNames = Mapping[str, str | None]
"""`renamed_from` by name."""


def same_features(old: FeatureSet, new: FeatureSet) -> dict[str, str]:
    """Old name of each feature that both files have, by its new name."""
    return same_names(
        {feature.name: feature.renamed_from for feature in old.features},
        {feature.name: feature.renamed_from for feature in new.features},
    )


def same_named_tables(old: FeatureSet, new: FeatureSet) -> dict[str, str]:
    """Old name of each table of `tables` that both files have, by its new name."""
    return same_names(
        {name: table.renamed_from for name, table in old.tables.items()},
        {name: table.renamed_from for name, table in new.tables.items()},
    )


def same_names(old: FirstNames, new: FirstNames) -> dict[str, str]:
    """Old name by new name; each old name is taken once.

    A name with `renamed_from` is the one that was renamed already; else the one of its first name;
    else the one that had the same first name, or has it back now and its later name no more. What
    then is left goes by its name.
    """
    found: dict[str, str] = {}
    for name, first_name in new.items():
        if first_name is None:
            continue
        if name in old and old[name] == first_name:
            found[name] = name
        elif first_name in old:
            found[name] = first_name
        else:
            again = next((other for other, first in old.items() if first == first_name), None)
            if again is not None:
                found[name] = again
    firsts = {first: other for other, first in old.items() if first is not None}
    for name in new:
        if name in found or name in old or name not in firsts:
            continue
        if firsts[name] not in new and firsts[name] not in found.values():
            found[name] = firsts[name]
    taken = set(found.values())
    found |= {name: name for name in new if name not in found and name in old and name not in taken}
    return {name: found[name] for name in new if name in found}


def renaming_mistakes(
    written: Mapping[YamlPath, tuple[str, Any]], *, kind: str, names: Collection[str]
) -> Iterator[tuple[YamlPath, str]]:
    """Yield the place and text of every `renamed_from` that cannot be.

    Args:
        written: Name and `renamed_from` as the file has them, by the place of the latter.
        kind: What is named, in words.
        names: All names of the kind in the file.
    """
    heirs: dict[str, str] = {}
    for path, (name, first_name) in written.items():
        if not isinstance(first_name, str):
            continue
        if first_name == name:
            yield path, f"names the {kind} itself, got {first_name!r}; drop it"
        elif first_name in names:
            yield (
                path,
                f"names a {kind} that is still there, got {first_name!r}; drop it, or call that "
                f"{kind} otherwise",
            )
        elif first_name in heirs:
            yield (
                path,
                f"{kind} {heirs[first_name]!r} was called so too, got {first_name!r}; keep one",
            )
        heirs.setdefault(first_name, name)
