"""Which sequence a sequence model continues."""

from __future__ import annotations

from dataclasses import dataclass

from features.columns import sequence_column, time_column
from features.errors import FeatureConfigError
from features.spec import Categorical, FeatureSet, Sequence, VocabEncoding
from recsys.data.layout import item_feature


@dataclass(frozen=True)
class ItemSequence:
    """The sequence that a sequence model continues.

    Attributes:
        item: The feature whose ids are the catalogue.
        feature: The sequence feature made of it.
    """

    item: str
    feature: Sequence

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of its columns in a batch, that of the items first."""
        others = [column for column in self.feature.columns if column != self.item]
        return tuple(sequence_column(self.feature.name, of) for of in [self.item, *others])

    @property
    def time_key(self) -> str | None:
        """Key of its times in a batch, where it has them."""
        return time_column(self.feature.name) if self.feature.times else None

    @classmethod
    def of(cls, feature_set: FeatureSet) -> ItemSequence:
        """The one such sequence of a feature set.

        Raises:
            FeatureConfigError: it has no item feature or one without a vocabulary, not one sequence
                of it, or a pooled one.
        """
        item = item_feature(feature_set)
        if item is None:
            raise FeatureConfigError(
                f"entity.item: a sequence task needs a categorical feature of this name, "
                f"got {feature_set.entity.item!r}; add it to features"
            )
        owner = item if item.like is None else feature_set.feature(item.like)
        assert isinstance(owner, Categorical), "what a categorical feature is like is one"
        if not isinstance(owner.encoding, VocabEncoding):
            raise FeatureConfigError(
                f"features.{owner.name}.encoding: the items of a sequence task are numbered from "
                f"1, and 0 is none of them, got {owner.encoding.kind}; allowed vocab; leave it out"
            )
        found = [s for s in feature_set.of_kind(Sequence) if item.name in s.columns]
        if len(found) != 1:
            names = ", ".join(s.name for s in found) or "none"
            raise FeatureConfigError(
                f"features: a sequence task needs one sequence of {item.name!r}, got {names}; "
                f"add or drop a feature {{kind: sequence, of: {item.name}}}"
            )
        if found[0].pooling != "none":
            raise FeatureConfigError(
                f"features.{found[0].name}.pooling: a sequence task reads every event, got "
                f"{found[0].pooling}; allowed none; leave it out"
            )
        return cls(item.name, found[0])
