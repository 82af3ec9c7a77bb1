"""Warnings of features that say the label, and of test events that training has seen."""

from __future__ import annotations

import polars as pl

from features.checking.finding import Finding
from features.columns import ROW, SPLIT, entity_column, label_column
from features.leaks import NEAR_ONE, category_auc, number_auc, pure_value
from features.schema import FeatureSchema
from features.spec import Bucketized, Categorical, ColumnFeature, Dense, HashEncoding, Vector
from features.split import uniform
from features.split_spec import TemporalSplit

SAMPLE_ROWS = 300_000
_MOST_HASHES = 5_000_000
_SAME = 0.99999
_FEW_ROWS = 0.005
_OWN_ROWS = 0.2  # where fewer rows differ, what is read does not tell events apart


def leaks(schema: FeatureSchema, encoded: pl.LazyFrame, *, num_training: int) -> list[Finding]:
    """Features that alone tell the label of training rows, of which some hundred thousand are read.

    Args:
        schema: Fitted.
        encoded: From `features.encode.encode`, with labels and `_split`.
        num_training: Training rows.
    """
    feature_set = schema.feature_set
    kinds = feature_set.of_kind(Categorical, Bucketized, Dense)
    if not feature_set.labels or not kinds:
        return []
    chosen = uniform(pl.col(ROW), seed=1) < SAMPLE_ROWS / max(num_training, 1)
    columns = [*(f.name for f in kinds), *map(label_column, feature_set.labels)]
    sample = (
        encoded.filter((pl.col(SPLIT) == "train") & chosen)
        .select(columns)
        .collect(engine="streaming")
    )
    found = []
    for label in feature_set.labels:
        labels = sample[label_column(label)]
        for feature in kinds:
            finding = _leak(schema, feature, sample[feature.name], labels, label=label)
            if finding is not None:
                found.append(finding)
    return found


def identical_rows(schema: FeatureSchema, encoded: pl.LazyFrame) -> list[Finding]:
    """Test events of which training has an equal one: features, label, user, item and time.

    Args:
        schema: Fitted.
        encoded: From `features.encode.encode`, with labels and `_split`.
    """
    feature_set = schema.feature_set
    if isinstance(feature_set.split, TemporalSplit):
        return []  # no instant is in two parts
    available = encoded.collect_schema()
    of_columns = (f for f in feature_set.of_kind(ColumnFeature) if not isinstance(f, Vector))
    columns = [feature.name for feature in of_columns]
    columns += [c for c in map(entity_column, ("user", "item", "time")) if c in available]
    columns += [label_column(label) for label in feature_set.labels]
    texts = [_hashable(name, available[name]) for name in columns]
    hashed = encoded.select(SPLIT, row=pl.struct(texts).hash(seed=0))
    num_rows = encoded.select(pl.len()).collect(engine="streaming").item()
    if num_rows > _MOST_HASHES:  # equal rows stay together
        hashed = hashed.filter(pl.col("row") % (-(-num_rows // _MOST_HASHES)) == 0)
    by_row = hashed.group_by("row").agg(
        trains=(pl.col(SPLIT) == "train").any(),
        tests=(pl.col(SPLIT) == "test").sum(),
        rows=pl.len(),
    )
    seen, tests, distinct, rows = (
        by_row.select(
            seen=pl.col("tests").filter(pl.col("trains")).sum(),
            tests=pl.col("tests").sum(),
            distinct=pl.len(),
            rows=pl.col("rows").sum(),
        )
        .collect(engine="streaming")
        .row(0)
    )
    if not tests or seen / tests < _FEW_ROWS or distinct < _OWN_ROWS * rows:
        return []
    text = (
        f"{seen / tests:.1%} of the test events are equal to a training event in all that is read; "
        f"drop doubled events from the data, or split by time"
    )
    return [Finding("identical_rows", "split", text, {"share_of_test": seen / tests})]


def _leak(
    schema: FeatureSchema,
    feature: Categorical | Bucketized | Dense,
    values: pl.Series,
    labels: pl.Series,
    *,
    label: str,
) -> Finding | None:
    known = labels.is_not_null()
    values, labels = values.filter(known), labels.filter(known)
    auc = (number_auc if isinstance(feature, Dense) else category_auc)(values, labels)
    if auc is not None and auc >= NEAR_ONE:
        what = "is the label" if auc >= _SAME else "nearly gives the label away"
        text = (
            f"{what} {label!r}: AUC {auc:.4f} alone; drop it, unless it is truly known before "
            f"the event"
        )
        return Finding("leak", feature.name, text, {"auc": auc})
    entity = schema.feature_set.entity
    is_entity = feature.expr is None and feature.source_column in (entity.user, entity.item)
    if isinstance(feature, Dense) or is_entity or values.dtype.is_nested():
        return None
    pure = pure_value(values, labels)
    if pure is None:
        return None
    value = _raw(schema, feature, pure.value)
    text = (
        f"with {value} ({pure.share:.1%} of the rows) the label {label!r} is always {pure.label}; "
        f"drop it, unless it is truly known before the event"
    )
    return Finding("leak", feature.name, text, {"share": pure.share, "label": pure.label})


def _raw(schema: FeatureSchema, feature: Categorical | Bucketized, encoded_id: int) -> str:
    if isinstance(feature, Categorical):
        if isinstance(schema.encoding_of(feature.name), HashEncoding):
            return f"hash {encoded_id}"
        if encoded_id == 0:
            return "values out of the vocabulary"
    [value] = schema.decode(feature.name, pl.Series([encoded_id])).to_list()
    return repr(value)


def _hashable(name: str, dtype: pl.DataType) -> pl.Expr:
    """Lists as texts: structs of lists have no hash."""
    value = pl.col(name)
    if not isinstance(dtype, pl.List):
        return value
    return value.list.eval(pl.element().cast(pl.String)).list.join(",").alias(name)
