"""Warnings of ids: such that never vary, occur once, or occur in the test alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from features.checking.finding import Finding
from features.columns import SPLIT, entity_column
from features.schema import FeatureSchema
from features.sizes import format_bytes
from features.spec import Bucketized, Categorical, Dense, VocabEncoding
from features.table_spec import FullTable

FLOAT_BYTES = 4
_MANY_IDS = 1_000
_RARE_SHARE = 0.3
_UNSEEN_SHARE = 0.05
_FEW_EVENTS = 20
_HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Unseen:
    """Ids of a part of the split that training has not.

    Attributes:
        of_events: Share of the part's values.
        of_ids: Share of its different ids; None where it was not counted.
        num_events: Values of the part.
    """

    of_events: float
    of_ids: float | None
    num_events: int


def one_value(schema: FeatureSchema, encoded: pl.LazyFrame) -> list[Finding]:
    """Features whose training rows are all alike.

    Args:
        schema: Fitted.
        encoded: From `features.encode.encode`, with `_split`.
    """
    features = schema.feature_set.of_kind(Categorical, Bucketized, Dense)
    is_list = [schema.is_multi_valued(f.name) for f in features]
    values = [
        pl.col(f.name).list.explode() if several else pl.col(f.name)
        for f, several in zip(features, is_list, strict=True)
    ]
    if not values:
        return []
    training = encoded.filter(pl.col(SPLIT) == "train")
    extremes = [
        expr
        for i, value in enumerate(values)
        for expr in (value.min().alias(f"least {i}"), value.max().alias(f"most {i}"))
    ]
    row = training.select(extremes).collect(engine="streaming").row(0, named=True)
    text = "has one value in training, from which nothing can be learned; drop it"
    return [
        Finding("one_value", feature.name, text)
        for i, feature in enumerate(features)
        if row[f"least {i}"] == row[f"most {i}"]
    ]


def rare_ids(schema: FeatureSchema) -> list[Finding]:
    """Vocabularies of which a good part occurs once, and what a `min_count` would save."""
    found = []
    tables = schema.feature_set.resolved_tables()
    for feature in schema.feature_set.of_kind(Categorical):
        encoding = feature.encoding
        if feature.like is not None or not isinstance(encoding, VocabEncoding):
            continue
        counts = schema.vocabularies[feature.name].counts
        num_once = int((counts == 1).sum())
        if len(counts) < _MANY_IDS or num_once < _RARE_SHARE * len(counts):
            continue
        table = tables[schema.feature_set.table_of(feature.name)]
        width = (table.dim or 0) * FLOAT_BYTES if isinstance(table, FullTable) else 0
        num_below_5 = int((counts < 5).sum())
        saved = [
            f"min_count {least} saves {num:,} rows{_of_bytes(num * width)}"
            for least, num in ((2, num_once), (5, num_below_5))
        ]
        share = num_once / len(counts)
        text = f"{share:.0%} of {len(counts):,} values occur once in training; {', '.join(saved)}"
        numbers = {
            "values": len(counts),
            "share_once": share,
            "rows_saved_by_2": num_once,
            "rows_saved_by_5": num_below_5,
            "bytes_saved_by_2": num_once * width,
            "bytes_saved_by_5": num_below_5 * width,
        }
        found.append(Finding("rare_ids", feature.name, text, numbers))
    return found


def unseen_ids(schema: FeatureSchema, encoded: pl.LazyFrame) -> list[Finding]:
    """Vocabularies of which validation and test know less than training does.

    Args:
        schema: Fitted.
        encoded: From `features.encode.encode`, with `_split`.
    """
    feature_set = schema.feature_set
    entity = feature_set.entity
    features = [
        f
        for f in feature_set.of_kind(Categorical)
        if isinstance(schema.encoding_of(f.name), VocabEncoding)
        and (f.expr is not None or f.source_column not in (entity.user, entity.item))
    ]
    if not features:
        return []
    sums = []
    for feature in features:
        value, name = pl.col(feature.name), feature.name
        if schema.is_multi_valued(name):
            sums += [
                value.list.eval(pl.element() == 0).list.sum().sum().alias(f"unknown {name}"),
                value.list.len().sum().alias(f"all {name}"),
            ]
        else:
            sums += [(value == 0).sum().alias(f"unknown {name}"), pl.len().alias(f"all {name}")]
    rows = encoded.group_by(SPLIT).agg(sums).collect(engine="streaming")
    by_part = {row[SPLIT]: row for row in rows.iter_rows(named=True)}
    return [
        finding
        for feature in features
        if (finding := _drift(feature.name, _shares(feature.name, by_part))) is not None
    ]


def unseen_entities(schema: FeatureSchema, encoded: pl.LazyFrame) -> list[Finding]:
    """Users and items that validation or test have and training has not.

    Args:
        schema: Fitted.
        encoded: From `features.encode.encode`, with `_split`.
    """
    found = []
    for role in ("user", "item"):
        column = entity_column(role)
        if column not in encoded.collect_schema():
            continue
        counts = (
            encoded.select(pl.col(SPLIT).alias("part"), pl.col(column).alias("id"))
            .drop_nulls()
            .group_by("part", "id")
            .len("events")
            .collect(engine="streaming")
        )
        known = counts.filter(pl.col("part") == "train").select("id")
        parts = {part: _unseen(counts.filter(pl.col("part") == part), known) for part in _HELD_OUT}
        finding = _entity_finding(role, parts)
        if finding is not None:
            found.append(finding)
    return found


def _unseen(counts: pl.DataFrame, known: pl.DataFrame) -> Unseen | None:
    if not len(counts):
        return None
    new = counts.join(known, on="id", how="anti")
    num_events = int(counts["events"].sum())
    return Unseen(int(new["events"].sum()) / num_events, len(new) / len(counts), num_events)


def _entity_finding(role: str, parts: Mapping[str, Unseen | None]) -> Finding | None:
    notable = {
        part: u for part, u in parts.items() if u is not None and _is_notable(u.of_events, u)
    }
    if not notable:
        return None
    shares = ", ".join(
        f"{u.of_ids:.0%} of the {part} {role}s with {u.of_events:.0%} of its events"
        for part, u in notable.items()
    )
    text = (
        f"training has not seen {shares}; nothing is learned of them, so give features that "
        f"describe {role}s, or look at the split"
    )
    numbers = {f"{part}_share_of_events": u.of_events for part, u in notable.items()}
    numbers |= {f"{part}_share_of_{role}s": u.of_ids or 0.0 for part, u in notable.items()}
    return Finding("unseen_entities", role, text, numbers)


def _shares(name: str, by_part: Mapping[str, Mapping[str, int]]) -> dict[str, Unseen]:
    return {
        part: Unseen(row[f"unknown {name}"] / row[f"all {name}"], None, row[f"all {name}"])
        for part, row in by_part.items()
        if row[f"all {name}"]
    }


def _drift(feature: str, shares: Mapping[str, Unseen]) -> Finding | None:
    """Out of vocabulary beyond what `min_count` and `max_size` leave out in training."""
    usual = shares["train"].of_events if "train" in shares else 0.0
    notable = {
        part: shares[part]
        for part in _HELD_OUT
        if part in shares and _is_notable(shares[part].of_events - usual, shares[part])
    }
    if not notable:
        return None
    told = ", ".join(f"{unseen.of_events:.0%} in {part}" for part, unseen in notable.items())
    text = (
        f"{told} of its values are out of the vocabulary, {usual:.0%} in training; it drifts: "
        f"look for a coarser feature, or a shorter time between training and use"
    )
    numbers = {f"{part}_share": unseen.of_events for part, unseen in shares.items()}
    return Finding("unseen_ids", feature, text, numbers)


def _is_notable(share: float, unseen: Unseen) -> bool:
    return share >= _UNSEEN_SHARE and unseen.num_events >= _FEW_EVENTS


def _of_bytes(num_bytes: int) -> str:
    return f" ({format_bytes(num_bytes)})" if num_bytes else ""
