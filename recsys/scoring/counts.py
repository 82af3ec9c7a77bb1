"""What is counted of each part, and adds up over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.dense import number
from features.schema import FeatureSchema
from features.spec import Bucketized, Categorical, ColumnFeature, Dense, VocabEncoding
from features.values import raw

# Of log odds: click rates lie close to 0, where ranges of equal width would tell nothing apart.
LOGIT_EDGES = np.arange(-7.0, 8.0)
EDGES: NDArray[np.float64] = 1 / (1 + np.exp(-LOGIT_EDGES))


@dataclass(frozen=True)
class FeatureCounts:
    """Of one feature, over the rows that are scored.

    Attributes:
        nulls: Rows whose raw value is null or NaN.
        filled: Those of them that `fill` has given a value.
        ids: Values that were looked up in a vocabulary.
        unseen: Those of them that training has not kept.
    """

    nulls: int = 0
    filled: int = 0
    ids: int = 0
    unseen: int = 0


@dataclass(frozen=True)
class ScoreCounts:
    """Of one column of probabilities.

    Attributes:
        total: Their sum.
        not_finite: Those that are no numbers.
        histogram: How many lie below the first of `EDGES`, between each two, and above the last.
    """

    total: float = 0.0
    not_finite: int = 0
    histogram: tuple[int, ...] = (0,) * (len(EDGES) + 1)


@dataclass(frozen=True)
class Counts:
    """Of a part, or of several.

    Attributes:
        read: Rows of the log.
        left_out: Those that `events.where` leaves out.
        rejected: Those that cannot be scored.
        scored: Rows of a ranking bundle that have a score, users of a sequence bundle.
        written: Rows of the output.
        features: By name.
        scores: By label.
    """

    read: int = 0
    left_out: int = 0
    rejected: int = 0
    scored: int = 0
    written: int = 0
    features: Mapping[str, FeatureCounts] = field(default_factory=dict)
    scores: Mapping[str, ScoreCounts] = field(default_factory=dict)

    def to_content(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Counts:
        """What `to_content` gave."""
        features = {n: FeatureCounts(**c) for n, c in content["features"].items()}
        scores = {
            n: ScoreCounts(**{**c, "histogram": tuple(c["histogram"])})
            for n, c in content["scores"].items()
        }
        return cls(**{**content, "features": features, "scores": scores})


def added_up(parts: Iterable[Counts]) -> Counts:
    """The counts of all parts together; in the order of the parts, as sums of floats follow it."""
    total = Counts()
    for part in parts:
        features = {
            name: FeatureCounts(*np.add(_of(total.features.get(name)), _of(counts)).tolist())
            for name, counts in part.features.items()
        }
        scores = {
            name: _with(total.scores.get(name, ScoreCounts()), counts)
            for name, counts in part.scores.items()
        }
        total = Counts(
            read=total.read + part.read,
            left_out=total.left_out + part.left_out,
            rejected=total.rejected + part.rejected,
            scored=total.scored + part.scored,
            written=total.written + part.written,
            features={**total.features, **features},
            scores={**total.scores, **scores},
        )
    return total


def count_features(
    schema: FeatureSchema, events: pl.DataFrame, encoded: pl.DataFrame
) -> dict[str, FeatureCounts]:
    """Count nulls of raw events, and ids of what they were encoded to.

    Args:
        schema: What they are encoded with.
        events: Raw rows that passed every check.
        encoded: The same rows.
    """
    features = schema.feature_set.of_kind(ColumnFeature)
    of_values = [_is_null(f).sum().alias(f.name) for f in features]
    nulls = events.select(of_values).row(0, named=True) if len(events) else {}
    known = [
        f.name
        for f in schema.feature_set.of_kind(Categorical)
        if isinstance(schema.encoding_of(f.name), VocabEncoding)
    ]
    ids = {n: encoded[n] for n in known}
    ids = {n: s.explode().drop_nulls() if s.dtype == pl.List else s for n, s in ids.items()}
    found = {}
    for feature in features:
        count = int(nulls.get(feature.name, 0))
        is_filled = getattr(feature, "fill", None) is not None
        looked_up = ids.get(feature.name, pl.Series([], dtype=pl.Int64))
        found[feature.name] = FeatureCounts(
            nulls=count,
            filled=count if is_filled else 0,
            ids=len(looked_up),
            unseen=int((looked_up == 0).sum()),
        )
    return found


def count_scores(scores_E: NDArray[np.float32]) -> ScoreCounts:
    """Count the probabilities of one label."""
    finite = scores_E[np.isfinite(scores_E)].astype(np.float64)
    histogram = np.bincount(np.searchsorted(EDGES, finite), minlength=len(EDGES) + 1)
    return ScoreCounts(
        total=float(finite.sum()),
        not_finite=len(scores_E) - len(finite),
        histogram=tuple(histogram.tolist()),
    )


def _is_null(feature: ColumnFeature) -> pl.Expr:
    if isinstance(feature, Dense | Bucketized):
        return number(feature).is_null()
    return raw(feature).is_null()


def _of(counts: FeatureCounts | None) -> tuple[int, ...]:
    c = counts or FeatureCounts()
    return (c.nulls, c.filled, c.ids, c.unseen)


def _with(first: ScoreCounts, second: ScoreCounts) -> ScoreCounts:
    histogram = np.add(first.histogram, second.histogram)
    return ScoreCounts(
        total=first.total + second.total,
        not_finite=first.not_finite + second.not_finite,
        histogram=tuple(histogram.tolist()),
    )
