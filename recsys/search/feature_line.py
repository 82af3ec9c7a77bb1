"""A feature as a line of the feature file."""

from __future__ import annotations

import sys
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from features.spec import EmbeddedFeature


def feature_line(feature: EmbeddedFeature, *, probes: int) -> str:
    """A feature with other probes, as an entry of `features` on one line."""
    content: dict[str, Any] = feature.model_dump(mode="json", exclude_defaults=True)
    if "encoding" in content:  # whose kind may be the default
        content["encoding"]["kind"] = feature.model_dump(mode="json")["encoding"]["kind"]
    first = {"name": content.pop("name"), "kind": content.pop("kind")}
    content.pop("probes", None)
    yaml, text = YAML(), StringIO()
    yaml.default_flow_style, yaml.width = True, sys.maxsize
    yaml.dump({**first, **content, "probes": probes}, text)
    return f"  - {text.getvalue().strip()}"
