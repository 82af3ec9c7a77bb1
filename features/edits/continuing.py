"""The schema of an edited feature file: encodings are continued, not fitted anew.

What a trained model knows of a value hangs on the value's id, and what it knows of a number on the
steps that made it. So known values keep their ids, in their order, and new ones are appended;
moments, and boundaries by quantiles, stay where they are fitted as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from features.checks import resolved_encoding
from features.edits.meaning import (
    has_other_source,
    is_fitted_alike,
    is_looser,
    is_stored_alike,
    other_meaning,
)
from features.edits.renames import same_features, same_named_tables
from features.edits.vocabulary_growth import Growth, continue_vocabulary
from features.errors import FeatureConfigError
from features.schema import FeatureSchema, Moments, Vocabulary
from features.spec import Bucketized, Categorical, Dense, FeatureSet, VocabEncoding
from features.table_plan import TablePlan
from features.table_spec import (
    AutoSrhTable,
    FullTable,
    MGQETable,
    PlannedTable,
    StoredTable,
    stored_tables,
)

_NONE = pl.Series([], dtype=pl.Null)


def continue_schema(
    old: FeatureSchema,
    feature_set: FeatureSet,
    *,
    fitted: FeatureSchema | None,
    expired: Mapping[str, pl.Series] | None = None,
) -> FeatureSchema:
    """The schema of an edited feature file that gives known values their old ids.

    Values leave a vocabulary, and later ids move up, only where its feature reads full tables: by
    `expired`, or a stricter `min_count` or `max_size` and the newest counts known. Elsewhere rows
    hang on ids, and such values stay. Vocabularies of tables with a plan stay as they are; in those
    of tables that tell ids apart by frequency, new values go where their counts put them. A
    feature whose ids mean other things now is fitted.

    Args:
        old: What the model was trained under.
        feature_set: The edited feature file.
        fitted: The edited feature file fitted to data. None: nothing needs any.
        expired: Raw values that are to leave, by (new) name of the feature.

    Raises:
        FeatureConfigError: with each feature that needs data where there is none, or whose old and
            new values have no type in common.
    """
    mistakes = [] if fitted is not None else list(_without_data(old.feature_set, feature_set))
    if mistakes:
        raise FeatureConfigError(mistakes)
    assert fitted is None or fitted.feature_set == feature_set, "fitted by this very file"
    continued = _Continued(old, feature_set, fitted, same_features(old.feature_set, feature_set))
    vocabularies: dict[str, Vocabulary] = {}
    for feature in feature_set.of_kind(Categorical):
        if feature.like is not None or not isinstance(feature.encoding, VocabEncoding):
            continue
        try:
            vocabularies[feature.name] = continued.vocabulary(
                feature, expired=(expired or {}).get(feature.name, _NONE)
            )
        except FeatureConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise FeatureConfigError(mistakes)
    return FeatureSchema(
        feature_set=feature_set,
        vocabularies=vocabularies,
        boundaries={f.name: continued.boundaries(f) for f in feature_set.of_kind(Bucketized)},
        moments={f.name: continued.moments(f) for f in feature_set.of_kind(Dense)},
        multi_valued=tuple(
            f.name for f in feature_set.of_kind(Categorical) if continued.is_multi_valued(f)
        ),
        plans=continued.plans(),
    )


def needing_data(old: FeatureSet, new: FeatureSet) -> dict[str, str]:
    """Features of the new file that must be fitted to data, and why, in words."""
    names = same_features(old, new)
    found = {}
    for feature in new.features:
        was = names.get(feature.name)
        why = _why_data(feature) if was is None else _why_data_again(old, new, feature.name, names)
        if why is not None:
            found[feature.name] = why
    return found


def may_shrink(feature_set: FeatureSet, feature: str) -> bool:
    """Whether values may leave a feature's vocabulary: its ids are rows of full tables alone."""
    return all(isinstance(stored, FullTable) for stored in _stored(feature_set, feature))


@dataclass(frozen=True)
class _Continued:
    """The parts of a continued schema.

    Attributes:
        old: What the model was trained under.
        feature_set: The edited feature file.
        fitted: The edited feature file fitted to data.
        names: Old names by new ones.
    """

    old: FeatureSchema
    feature_set: FeatureSet
    fitted: FeatureSchema | None
    names: Mapping[str, str]

    def vocabulary(self, feature: Categorical, *, expired: pl.Series) -> Vocabulary:
        """Of a feature that has one of its own."""
        name = feature.name
        known = self._known(name)
        fitted = None if self.fitted is None else self.fitted.vocabularies[name]
        if known is None:
            assert fitted is not None, "needs data"
            return fitted
        if any(isinstance(t, PlannedTable) for t in _stored(self.feature_set, name)):
            return known  # its plan speaks of these ids
        before = self.old.encoding_of(self.names[name])
        assert isinstance(before, VocabEncoding), "ids mean the same"
        assert isinstance(feature.encoding, VocabEncoding)
        found = continue_vocabulary(
            known,
            Growth(
                fitted=fitted,
                before=before,
                after=feature.encoding,
                expired=expired,
                may_shrink=may_shrink(self.feature_set, name),
            ),
            where=f"features.{name}",
        )
        is_ordered = self._tells_frequent_ids(name) and not (
            self._reads_the_same(name) and found.values.equals(known.values)
        )
        return by_falling_count(found) if is_ordered else found

    def boundaries(self, feature: Bucketized) -> tuple[float, ...]:
        """Given ones, old quantiles, or new ones."""
        if feature.boundaries is not None:
            return feature.boundaries
        if self._is_fitted_alike(feature):
            return self.old.boundaries[self.names[feature.name]]
        assert self.fitted is not None, "needs data"
        return self.fitted.boundaries[feature.name]

    def moments(self, feature: Dense) -> Moments:
        """Old ones, where the same numbers were summed."""
        if self._is_fitted_alike(feature):
            return self.old.moments[self.names[feature.name]]
        assert self.fitted is not None, "needs data"
        return self.fitted.moments[feature.name]

    def is_multi_valued(self, feature: Categorical) -> bool:
        """As the data says; without data as before."""
        if self.fitted is not None:
            return self.fitted.is_multi_valued(feature.name)
        was = self.names.get(feature.name)
        return feature.split is not None or (was is not None and self.old.is_multi_valued(was))

    def plans(self) -> dict[str, TablePlan]:
        """Those of the fitted schema, and the old ones of tables that are as they were."""
        before, after = self.old.feature_set.tables, self.feature_set.tables
        tables = same_named_tables(self.old.feature_set, self.feature_set)
        kept = {
            name: self.old.plans[was]
            for name, was in tables.items()
            if was in self.old.plans and is_stored_alike(before[was], after[name])
        }
        return ({} if self.fitted is None else dict(self.fitted.plans)) | kept

    # ---------------------------------------------------------------------------------- inside
    def _known(self, name: str) -> Vocabulary | None:
        """The old vocabulary, where its values still mean the same."""
        if name not in self.names or other_meaning(
            self.old.feature_set, self.feature_set, name=name, names=self.names
        ):
            return None
        return self.old.vocabulary_of(self.names[name])

    def _is_fitted_alike(self, feature: Bucketized | Dense) -> bool:
        was = self.names.get(feature.name)
        return was is not None and is_fitted_alike(self.old.feature_set.feature(was), feature)

    def _tells_frequent_ids(self, name: str) -> bool:
        stored = _stored(self.feature_set, name)
        return any(isinstance(table, MGQETable | AutoSrhTable) for table in stored)

    def _reads_the_same(self, name: str) -> bool:
        before = _stored(self.old.feature_set, self.names[name])
        after = _stored(self.feature_set, name)
        return len(before) == len(after) and all(map(is_stored_alike, before, after))


def by_falling_count(vocabulary: Vocabulary) -> Vocabulary:
    """The most frequent values first; among equals, the order stays."""
    table = pl.DataFrame({"value": vocabulary.values, "count": vocabulary.counts})
    ordered = table.sort("count", descending=True, maintain_order=True)
    return Vocabulary(values=ordered["value"], counts=ordered["count"])


def _stored(feature_set: FeatureSet, feature: str) -> list[StoredTable]:
    table = feature_set.table_of(feature)
    return list(stored_tables(table, feature_set.resolved_tables()[table]).values())


def _without_data(old: FeatureSet, new: FeatureSet) -> Iterator[str]:
    for name, why in needing_data(old, new).items():
        yield f"features.{name}: must be fitted, as {why}, got no data; give --data DIR"


def _why_data(feature: object) -> str | None:
    """Why a new feature needs data."""
    match feature:
        case Bucketized(quantiles=None):
            return None
        case Categorical(like=None, encoding=VocabEncoding()) | Bucketized() | Dense():
            return "it is new"
        case Categorical(split=None):
            return "it is new, and data says whether an event may have several values"
        case _:
            return None


def _why_data_again(
    old: FeatureSet, new: FeatureSet, name: str, names: Mapping[str, str]
) -> str | None:
    """Why a feature needs data that was fitted before."""
    before, after = old.feature(names[name]), new.feature(name)
    if before.kind != after.kind:
        return None if _why_data(after) is None else f"it is {after.kind} now"
    match after:
        case Categorical(like=None, encoding=VocabEncoding()):
            if other_meaning(old, new, name=name, names=names):
                return "its ids mean other values now"
            if before.fill != after.fill:
                return f"fill is {after.fill!r} now"
            was = resolved_encoding(old, before)
            assert isinstance(was, VocabEncoding), "ids mean the same"
            assert isinstance(after.encoding, VocabEncoding)
            if is_looser(was, after.encoding):
                return "min_count or max_size lets more values in"
        case Categorical(split=None) if before.split or has_other_source(before, after):
            return "it comes from other values now"
        case Bucketized(boundaries=None) | Dense() if not is_fitted_alike(before, after):
            return "its line in the file changed"
    return None
