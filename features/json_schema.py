"""JSON Schema of feature files, shorthands included, for editors."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from features.spec import FeatureSet
from features.table_spec import ROLES


def feature_file_schema() -> dict[str, Any]:
    """The schema of a feature file as a person may write it."""
    schema = FeatureSet.model_json_schema()
    schema["title"] = "Feature file"
    parts = schema["$defs"]
    _allow_short_sources(schema, parts)
    properties = parts["Entity"]["properties"]
    properties["time"]["anyOf"].append({"type": "string"})
    labels = schema["properties"]["label"]
    labels["anyOf"] = [{"$ref": "#/$defs/Label"}, {"type": "array", "items": labels.pop("items")}]
    del labels["type"]
    _allow_bare_tables(schema, parts)
    _allow_kind_as_text(schema["properties"]["split"], kinds=["leave_one_out", "random"])
    _allow_kind_as_text(parts["Categorical"]["properties"]["encoding"], kinds=["vocab", "hash"])
    _allow_names(schema, parts)
    _drop_defaults(schema)
    return schema


def schema_text() -> str:
    """The schema as it lies in the repository."""
    return json.dumps(feature_file_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _allow_short_sources(schema: dict[str, Any], parts: dict[str, Any]) -> None:
    path = parts["EventSource"]["properties"]["path"]["anyOf"]
    schema["properties"]["sources"] |= {
        "properties": {"events": {"anyOf": [{"$ref": "#/$defs/EventSource"}, *path]}},
        "additionalProperties": {"$ref": "#/$defs/AttributeSource"},
        "required": ["events"],
    }


def _allow_bare_tables(schema: dict[str, Any], parts: dict[str, Any]) -> None:
    """A table without scheme is full."""
    tables = schema["properties"]["tables"]["additionalProperties"]
    _allow_no_scheme(tables)
    tables["anyOf"].append({"type": "null"})
    parts["FullTable"].pop("required", None)
    for role in ROLES:
        _allow_no_scheme(parts["DecoupledTable"]["properties"][role])


def _allow_no_scheme(union: dict[str, Any]) -> None:
    """Tables are told apart by their keys, as one without scheme is full."""
    union["anyOf"] = union.pop("oneOf")
    union.pop("discriminator")


def _allow_kind_as_text(union: dict[str, Any], *, kinds: list[str]) -> None:
    members = union.pop("oneOf")
    union.pop("discriminator")
    union["anyOf"] = [*members, {"enum": kinds}]


def _allow_names(schema: dict[str, Any], parts: dict[str, Any]) -> None:
    """Each kind of feature with `names` instead of `name`."""
    items = schema["properties"]["features"]["items"]
    items.pop("discriminator")
    schema["properties"]["features"]["minItems"] = 1
    for member in list(items["oneOf"]):
        kind = member["$ref"].rpartition("/")[2]
        several = deepcopy(parts[kind])
        del several["properties"]["name"]
        several["properties"]["names"] = {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "description": "Names of several features that are alike in all else.",
        }
        several["required"] = [key for key in several["required"] if key != "name"] + ["names"]
        parts[f"{kind}s"] = several | {"title": f"{kind}, several"}
        items["oneOf"].append({"$ref": f"#/$defs/{kind}s"})


def _drop_defaults(node: Any) -> None:
    """Editors insert defaults that nobody asked for."""
    if isinstance(node, dict):
        if not isinstance(node.get("default"), dict | list) or "type" in node or "anyOf" in node:
            node.pop("default", None)
        for value in node.values():
            _drop_defaults(value)
    elif isinstance(node, list):
        for value in node:
            _drop_defaults(value)
