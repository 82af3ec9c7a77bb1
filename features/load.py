"""YAML -> `FeatureSet`: every mistake at once, each with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from features import shorthand
from features.consistency import Draft, find_contradictions
from features.errors import FeatureConfigError, did_you_mean
from features.messages import findings, got
from features.spec import (
    AttributeSource,
    Defaults,
    Entity,
    EventSource,
    Feature,
    FeatureSet,
    Label,
    Split,
)
from features.table_spec import Table
from features.yaml_tree import YamlTree, parse_yaml

YamlPath = tuple[str | int, ...]


def load_feature_set(path: Path) -> FeatureSet:
    """Read a feature file.

    Raises:
        FeatureConfigError: with all mistakes of the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise FeatureConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FeatureConfigError(f"{path}: is no UTF-8 text: {error}; save it as UTF-8") from None
    return parse_feature_set(text, name=str(path))


def parse_feature_set(text: str, *, name: str) -> FeatureSet:
    """Read the text of a feature file.

    Args:
        text: YAML 1.2.
        name: What messages call the file.

    Raises:
        FeatureConfigError: with all mistakes of the text.
    """
    tree = parse_yaml(text, name=name)
    reader = _Reader(tree)
    feature_set = reader.read()
    if feature_set is None:
        raise FeatureConfigError(reader.sorted_mistakes())
    return feature_set


class _Reader:
    """Validates a file piece by piece, so that one wrong piece does not hide others' mistakes."""

    def __init__(self, tree: YamlTree) -> None:
        self.tree = tree
        self.mistakes: list[str] = list(tree.mistakes)
        self.labels: dict[YamlPath, str] = {}
        self.noted: set[tuple[YamlPath, str]] = set()

    def read(self) -> FeatureSet | None:
        """The feature set, or None if there are mistakes."""
        top = self.tree.value
        if not isinstance(top, dict):
            self.complain(
                (),
                "must be a mapping with sources and features, got "
                + ("an empty file" if top is None else got(top)),
            )
            return None
        for key in top:
            if key not in FeatureSet.model_fields:
                allowed = list(FeatureSet.model_fields)
                hint = did_you_mean(key, allowed)
                self.complain((key,), f"unknown key; allowed {', '.join(allowed)}{hint}")
        draft = self._draft(top)
        for path, message in find_contradictions(draft):
            self.complain(path, message)
        if self.mistakes or draft.entity is None:
            return None
        return FeatureSet(
            sources=draft.sources,
            entity=draft.entity,
            label=tuple(draft.labels.values()),
            weight=draft.weight,
            split=draft.split,
            defaults=draft.defaults,
            tables=draft.tables,
            features=tuple(feature for _, feature in draft.features),
        )

    def _draft(self, top: dict[str, Any]) -> Draft:
        labels = self._labels(top)
        features, entries = self._features(top)
        tables = {
            name: self.validate(("tables", name), Table, shorthand.expand_table(value))
            for name, value in self._mapping(top, "tables").items()
        }
        return Draft(
            sources=self._sources(top),
            entity=self._piece(top, "entity", Entity, shorthand.expand_entity, Entity()),
            labels=labels,
            weight=self._piece(top, "weight", str | None, None, None),
            split=self._piece(
                top,
                "split",
                Split,
                shorthand.expand_split,
                FeatureSet.model_fields["split"].default,
            ),
            defaults=self._piece(top, "defaults", Defaults, None, Defaults()),
            tables={name: table for name, table in tables.items() if table is not None},
            table_names=tuple(tables),
            features=features,
            entries=entries,
            is_whole=not self.mistakes,
        )

    def _piece(self, top: dict[str, Any], key: str, model: Any, expand: Any, default: Any) -> Any:
        """A top-level entry; its default where it is absent, None where it is wrong."""
        if key not in top:
            return default
        value = top[key] if expand is None else expand(top[key])
        return self.validate((key,), model, value)

    def _mapping(self, top: dict[str, Any], key: str) -> dict[str, Any]:
        value = top.get(key, {})
        if isinstance(value, dict):
            return value
        self.complain((key,), f"must be a mapping of names, got {got(value)}")
        return {}

    def _sources(self, top: dict[str, Any]) -> dict[str, EventSource | AttributeSource]:
        if "sources" not in top:
            self.complain(("sources",), "missing; add `sources: {events: FILE.parquet}`")
            return {}
        sources = self._mapping(top, "sources")
        if "events" not in sources and isinstance(top["sources"], dict):
            hint = did_you_mean("events", sources)
            self.complain(("sources", "events"), f"missing; add the event log{hint}")
        result = {}
        for name, value in sources.items():
            path = ("sources", name)
            if name == "events":
                source = self.validate(path, EventSource, shorthand.expand_source(value))
            elif isinstance(value, dict):
                source = self.validate(path, AttributeSource, value)
            else:
                source = None
                self.complain(
                    path,
                    f"must be a mapping like {{path: FILE.parquet, on: KEY}}, got {got(value)}",
                )
            if source is not None:
                result[name] = source
        return result

    def _labels(self, top: dict[str, Any]) -> dict[YamlPath, Label]:
        value = top.get("label", ())
        entries = (
            {("label", i): entry for i, entry in enumerate(value)}
            if isinstance(value, tuple)
            else {("label",): value}
        )
        result = {}
        for path, entry in entries.items():
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                self.labels[path] = f"label.{entry['name']}"
            label = self.validate(path, Label, entry)
            if label is not None:
                result[path] = label
        return result

    def _features(
        self, top: dict[str, Any]
    ) -> tuple[tuple[tuple[YamlPath, Any], ...], tuple[tuple[YamlPath, dict[str, Any]], ...]]:
        """The valid features, and all as they were written, each with its place in the file."""
        value = top.get("features", ())
        if not isinstance(value, tuple) or not value:
            got_text = "none" if value in ((), None) else got(value)
            self.complain(
                ("features",), f"must be a list with at least one feature, got {got_text}"
            )
            return (), ()
        features, entries = [], []
        for i, written in enumerate(value):
            for inner, entry in shorthand.expand_feature(written):
                path = ("features", i, *inner)
                if isinstance(entry, dict):
                    entries.append((path, entry))
                    if isinstance(entry.get("name"), str):
                        self.labels[path] = f"features.{entry['name']}"
                feature = self.validate(path, Feature, entry)
                if feature is not None:
                    features.append((path, feature))
        return tuple(features), tuple(entries)

    def validate(self, path: YamlPath, model: Any, data: Any) -> Any:
        """One piece as its type, or None after complaining."""
        try:
            return TypeAdapter(model).validate_python(data)
        except ValidationError as error:
            for inner, message in findings(error, model=model, data=data):
                self.complain((*path, *inner), message)
            return None

    def complain(self, path: YamlPath, message: str) -> None:
        """Note a mistake, with features and labels called by their names."""
        label: list[str] = []
        for end in range(len(path), 0, -1):
            if path[:end] in self.labels:
                label.insert(0, self.labels[path[:end]])
                break
            label.insert(0, str(path[end - 1]))
        if path[2:3] == ("names",) and path[4:] not in ((), ("name",)):
            path = (*path[:2], *path[4:])  # a mistake that all these features share
        if (path, message) not in self.noted:
            self.noted.add((path, message))
            where = self.tree.where(path)
            subject = f"{'.'.join(label)}: " if label else ""
            self.mistakes.append(f"{where}: {subject}{message}")

    def sorted_mistakes(self) -> list[str]:
        """All mistakes by line."""
        prefix = len(self.tree.name) + 1
        return sorted(self.mistakes, key=lambda text: int(text[prefix:].partition(":")[0]))
