"""A fitted schema on disk: `schema.json` beside `vocabularies/FEATURE.parquet`.

Plans of tables lie in `plans/TABLE.safetensors`, without the values that training begins with:
beside a saved schema there are trained ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from features.errors import SchemaMismatchError
from features.schema import FeatureSchema, Moments, Vocabulary
from features.spec import FeatureSet
from features.table_plan import read_plan, write_plan

FORMAT = 1
_JSON = "schema.json"
_VOCABULARIES = "vocabularies"
_PLANS = "plans"


def save_schema(schema: FeatureSchema, directory: Path) -> None:
    """Write a schema.

    Args:
        schema: What to write.
        directory: Made if need be; files of an older schema in it are replaced.
    """
    vocabularies = directory / _VOCABULARIES
    vocabularies.mkdir(parents=True, exist_ok=True)
    for stale in vocabularies.glob("*.parquet"):
        stale.unlink()
    for name, vocabulary in schema.vocabularies.items():
        table = pl.DataFrame({"value": vocabulary.values, "count": vocabulary.counts})
        table.write_parquet(vocabularies / f"{name}.parquet")
    _save_plans(schema, directory / _PLANS)
    content = {
        "format": FORMAT,
        "fingerprint": schema.fingerprint(),
        "feature_set": schema.feature_set.model_dump(mode="json"),
        "vocabularies": list(schema.vocabularies),
        "boundaries": dict(schema.boundaries),
        "moments": {name: asdict(moments) for name, moments in schema.moments.items()},
        "multi_valued": schema.multi_valued,
        "plans": {name: plan.digest for name, plan in schema.plans.items()},
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (directory / _JSON).write_text(text, encoding="utf-8")


def load_schema(directory: Path) -> FeatureSchema:
    """Read a schema and check that it is whole.

    Raises:
        SchemaMismatchError: it is absent, damaged, or of a newer format.
    """
    path = directory / _JSON
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SchemaMismatchError(f"{path}: no readable schema ({error}); fit it again") from None
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, int) or version > FORMAT:
        raise SchemaMismatchError(
            f"{path}: unknown format, got {version!r}; allowed up to {FORMAT}; "
            f"read it with the version that wrote it, or a newer one"
        )
    try:
        schema = _read(content, directory)
        fingerprint = schema.fingerprint()
    except (
        ValidationError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        AttributeError,
        pl.exceptions.PolarsError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SchemaMismatchError(f"{directory}: damaged schema ({reason}); fit it again") from None
    if fingerprint != content["fingerprint"]:
        raise SchemaMismatchError(
            f"{directory}: contents were changed, got fingerprint {fingerprint}; written was "
            f"{content['fingerprint']}; fit it again"
        )
    changed = [n for n, plan in schema.plans.items() if plan.digest != content["plans"][n]]
    if changed:
        raise SchemaMismatchError(
            f"{directory}: the plan of table {changed[0]!r} was changed; take the one it was "
            f"saved with"
        )
    return schema


def _read(content: dict[str, Any], directory: Path) -> FeatureSchema:
    return FeatureSchema(
        feature_set=FeatureSet.model_validate_json(json.dumps(content["feature_set"])),
        vocabularies={
            name: _vocabulary(directory / _VOCABULARIES / f"{name}.parquet")
            for name in content["vocabularies"]
        },
        boundaries={name: tuple(b) for name, b in content["boundaries"].items()},
        moments={name: Moments(**moments) for name, moments in content["moments"].items()},
        multi_valued=tuple(content["multi_valued"]),
        plans={
            name: read_plan(directory / _PLANS / f"{name}.safetensors")
            for name in content.get("plans", {})  # absent before there were any
        },
    )


def _save_plans(schema: FeatureSchema, directory: Path) -> None:
    for stale in directory.glob("*.safetensors"):
        stale.unlink()
    for name, plan in schema.plans.items():
        write_plan(plan.without_first_values(), directory / f"{name}.safetensors")


def _vocabulary(path: Path) -> Vocabulary:
    table = pl.read_parquet(path, glob=False)
    return Vocabulary(values=table["value"], counts=table["count"])
