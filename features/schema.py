"""What a machine needs to encode: the feature set and all that was fitted to data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import polars as pl

from features.spec import (
    Categorical,
    FeatureSet,
    HashEncoding,
    IdentityEncoding,
    VocabEncoding,
)
from features.table_plan import TablePlan


@dataclass(frozen=True)
class Vocabulary:
    """Known raw values; the value at position i has id i + 1, and id 0 is every other value.

    Attributes:
        values: Distinct raw values, in any order: fitted ones by falling count, ties by rising
            value; those of `features.edits.continuing` in the order in which they came.
        counts: Occurrences in training, as they were last counted.
    """

    values: pl.Series
    counts: pl.Series

    @cached_property
    def texts(self) -> pl.Enum:
        """The values' texts; a text's position is its id - 1.

        A cast to it finds ids also within lists, where no join reaches.
        """
        return pl.Enum(self.values.cast(pl.String))


@dataclass(frozen=True)
class Moments:
    """Of a dense feature over the training rows, after transform and clip.

    Attributes:
        mean: Arithmetic mean.
        std: Population standard deviation; 1 where the column is constant.
        raw_mean: Mean before the transform, which `fill: mean` uses.
    """

    mean: float
    std: float
    raw_mean: float


@dataclass(frozen=True)
class FeatureSchema:
    """A feature set fitted to data. Saved as JSON and Parquet; see `features.storage`.

    Attributes:
        feature_set: What the person wrote.
        vocabularies: By feature; a feature that is `like` another has none of its own.
        boundaries: Of every bucketized feature, given or fitted.
        moments: Of every dense feature.
        multi_valued: Categorical features whose rows hold lists of values.
        plans: Of planned tables, by table.
    """

    feature_set: FeatureSet
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)
    boundaries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)
    multi_valued: tuple[str, ...] = ()
    plans: Mapping[str, TablePlan] = field(default_factory=dict)

    def is_multi_valued(self, feature: str) -> bool:
        """Whether an event may have other than one id of the feature."""
        return feature in self.multi_valued

    def encoding_of(self, feature: str) -> VocabEncoding | HashEncoding | IdentityEncoding:
        """How a categorical feature, or the one it is like, becomes ids.

        Raises:
            KeyError: there is no categorical feature of that name.
        """
        return self._owner(feature).encoding

    def vocabulary_of(self, feature: str) -> Vocabulary:
        """The vocabulary that a feature reads, its own or that of the one it is like.

        Raises:
            KeyError: the feature has no vocabulary.
        """
        return self.vocabularies[self._owner(feature).name]

    def num_ids(self, feature: str) -> int | None:
        """Ids are 0 ... num_ids - 1; None for whole 63-bit hashes.

        Raises:
            KeyError: the feature has no ids.
        """
        if feature in self.boundaries:
            return len(self.boundaries[feature]) + 1
        match self.encoding_of(feature):
            case VocabEncoding():
                return len(self.vocabulary_of(feature).values) + 1
            case HashEncoding(size=size) | IdentityEncoding(size=size):
                return size

    def decode(self, feature: str, ids: pl.Series) -> pl.Series:
        """Raw values of ids: null for the out-of-vocabulary id, a range's text for a bucket.

        Raises:
            KeyError: the feature has no ids.
            ValueError: an id does not exist, or the feature is hashed and its values not known.
        """
        num_ids = self.num_ids(feature)
        wrong = ids.filter((ids < 0) | (ids >= num_ids)) if num_ids is not None else ids.head(0)
        if len(wrong):
            raise ValueError(
                f"features.{feature}: no such id, got {wrong[0]}; allowed 0 ... {num_ids} - 1"
            )
        if feature in self.boundaries:
            return _ranges(self.boundaries[feature]).gather(ids)
        match self.encoding_of(feature):
            case IdentityEncoding():
                return ids
            case HashEncoding():
                raise ValueError(
                    f"features.{feature}: values of encoding hash are not known; use vocab"
                )
            case VocabEncoding():
                values = self.vocabulary_of(feature).values
                return pl.concat([values.clear(n=1), values]).gather(ids)

    def fingerprint(self) -> str:
        """Digest of all that decides how raw data becomes ids and numbers; see `fingerprint`."""
        from features.fingerprint import fingerprint

        return fingerprint(self)

    def _owner(self, feature: str) -> Categorical:
        found = self.feature_set.feature(feature)
        if not isinstance(found, Categorical):
            raise KeyError(feature)
        return self.feature_set.feature(found.like) if found.like else found


def _ranges(boundaries: tuple[float, ...]) -> pl.Series:
    edges = ["-inf", *(f"{boundary:g}" for boundary in boundaries), "inf"]
    return pl.Series([f"[{low}, {high})" for low, high in pairwise(edges)])
