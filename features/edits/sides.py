"""One of the two feature files that are compared, with what is known of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from features.checks import resolved_encoding
from features.edits.meaning import owner_of
from features.schema import FeatureSchema
from features.spec import (
    Bucketized,
    Categorical,
    EmbeddedFeature,
    FeatureSet,
    HashEncoding,
    IdentityEncoding,
    Sequence,
)
from features.table_spec import Table


@dataclass(frozen=True)
class Side:
    """A feature file.

    Attributes:
        feature_set: What it says.
        schema: What was fitted. None: only the file is known.
    """

    feature_set: FeatureSet
    schema: FeatureSchema | None

    @cached_property
    def tables(self) -> Mapping[str, Table]:
        """All logical tables that a feature reads, with their widths."""
        read = {self.feature_set.table_of(f.name) for f in self.feature_set.embedded}
        tables = self.feature_set.resolved_tables()
        return {name: table for name, table in tables.items() if name in read}

    def readers(self, table: str) -> tuple[str, ...]:
        """Features that read a table, in the order of the file."""
        found = (feature.name for feature in self.feature_set.embedded)
        return tuple(name for name in found if self.feature_set.table_of(name) == table)

    def owners(self, table: str) -> tuple[str, ...]:
        """Features that ids of a table belong to, in the order in which they are first read.

        Sequences read too: one before its feature is the first to do so.
        """
        found: dict[str, None] = {}
        for feature in self.feature_set.features:
            names = feature.columns if isinstance(feature, Sequence) else (feature.name,)
            for name in names:
                is_embedded = isinstance(self.feature_set.feature(name), EmbeddedFeature)
                if is_embedded and self.feature_set.table_of(name) == table:
                    found[self.owner(name)] = None
        return tuple(found)

    def owner(self, feature: str) -> str:
        """The feature whose ids a feature has: itself, or the one it is like."""
        return owner_of(self.feature_set, feature)

    def first_name(self, feature: str) -> str:
        """What hashes of a feature's ids are salted with."""
        return self.feature_set.feature(self.owner(feature)).first_name

    def is_unbounded(self, feature: str) -> bool:
        """Whether ids are whole 63-bit hashes, so that nobody knows them."""
        spec = self.feature_set.feature(feature)
        if not isinstance(spec, Categorical):
            return False
        encoding = resolved_encoding(self.feature_set, spec)
        return isinstance(encoding, HashEncoding) and encoding.size is None

    def num_ids(self, feature: str) -> int | None:
        """Ids of a feature; None where there is any number, or only data would tell."""
        if self.schema is not None:
            return self.schema.num_ids(feature)
        spec = self.feature_set.feature(feature)
        if isinstance(spec, Bucketized):
            return None if spec.boundaries is None else len(spec.boundaries) + 1
        encoding = resolved_encoding(self.feature_set, spec)
        return encoding.size if isinstance(encoding, HashEncoding | IdentityEncoding) else None
