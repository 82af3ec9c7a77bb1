"""The card of a bundle, in Markdown: what it is, for whom, how good, and what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from features.schema import FeatureSchema
from features.spec import Bucketized, Categorical, Dense, Feature, Sequence, Vector
from recsys.bundle import BundleManifest
from recsys.tables.few_bits import TableDType
from recsys.training.ranking import RankingTask
from recsys.training.task import Task

_BITS: Mapping[TableDType, str] = {
    "fp32": "32 bits",
    "fp16": "16 bits",
    "int8": "8 bits, and a scale and an offset of 16 bits for each row",
    "int4": "4 bits, and a scale and an offset of 16 bits for each row",
}


def render_card(task: Task, manifest: BundleManifest, *, table_bytes: Mapping[str, int]) -> str:
    """The card.

    Args:
        task: What was exported.
        manifest: Of the bundle.
        table_bytes: By logical table.
    """
    model = task.ranker if isinstance(task, RankingTask) else task.encoder
    schemes = {t.name: t.spec.scheme for t in task.logical_tables(task.schema)}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.j2").render(
        model=type(model).__name__,
        manifest=manifest,
        labels=manifest.labels,
        parity=manifest.parity,
        features=[_row(f, task.schema) for f in task.schema.feature_set.features],
        tables=[
            {"name": name, "scheme": schemes[name], "bytes": size}
            for name, size in table_bytes.items()
        ],
        bits=_BITS[manifest.table_dtype],
        limits=list(_limits(task, manifest)),
    )


def _row(feature: Feature, schema: FeatureSchema) -> tuple[Any, ...]:
    """Name, kind, raw column, encoding and number of values, as cells."""
    encoding, values = "", ""
    match feature:
        case Categorical():
            encoding = schema.encoding_of(feature.name).kind
            num_ids = schema.num_ids(feature.name)
            values = "unbounded" if num_ids is None else f"{num_ids:,}"
        case Bucketized():
            encoding, values = "buckets", f"{schema.num_ids(feature.name):,}"
        case Dense():
            done = (feature.transform, "standardised" if feature.standardize else None)
            encoding = ", ".join(filter(None, done))
        case Vector():
            values = f"{feature.size}"
        case Sequence():
            encoding, values = "as its features", f"up to {feature.max_length}"
    column = _column(feature)
    cells = (feature.name, feature.kind, column, encoding, values)
    return tuple(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)


def _column(feature: Feature) -> str:
    if isinstance(feature, Sequence):
        return feature.of if isinstance(feature.of, str) else ", ".join(feature.of)
    return feature.expr or feature.column or feature.name


def _limits(task: Task, manifest: BundleManifest) -> Iterator[str]:
    names = [f.name for f in task.schema.feature_set.of_kind(Categorical)]
    yield (
        f"Values of {', '.join(names) or 'features'} that training has not seen share the row of "
        f"unseen values, or one by their hash."
    )
    if task.schema.feature_set.of_kind(Sequence):
        yield "Histories come from the data that is scored: give the users' earlier events too."
    if manifest.table_dtype in ("int8", "int4", "fp16"):
        yield (
            "Tables whose scheme has a form of its own (sparse, quantised in training, arrays, "
            "networks) are stored in that form; rows too narrow for a scale have 16 bits."
        )
    if manifest.task == "sequence":
        yield "Scores order the items of one user, and are no probabilities."
    if manifest.parity is None:
        yield "Whether it scores as the model does is not known."
