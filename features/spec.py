"""What a person writes: the feature file as frozen, strictly checked types.

`features.load` turns YAML into a `FeatureSet`; nothing else builds one from text.
Keys and names here are the keys of the YAML; the field docs are the hover texts of an editor.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from features.spec_base import Scalar, Spec
from features.split_spec import RandomSplit, Split
from features.table_spec import ROLES, DecoupledTable, FullTable, Table


# ---------------------------------------------------------------------------- where data lies
class EventSource(Spec):
    """The event log: one row per event."""

    path: str | tuple[str, ...]
    """Parquet file, glob or list of them, below the data directory."""
    where: str | None = None
    """SQL condition; events for which it does not hold do not exist for anything below."""
    file_column: str | None = None
    """Adds a column of this name with each row's file name (for data that comes split in files)."""


class AttributeSource(Spec):
    """A table of attributes, at most one row per key, joined to the events on the left."""

    path: str | tuple[str, ...]
    """Parquet file, glob or list of them, below the data directory."""
    on: str
    """Key column, of this name in both tables."""


class Time(Spec):
    """The column that orders events."""

    column: str
    """Number, date or datetime."""
    unit: Literal["s", "ms", "us", "ns"] | None = None
    """Unit of a number of ticks since 1970; it is a UTC datetime from here on. None: as it is."""


class Entity(Spec):
    """Columns that say who, what and when."""

    user: str | None = None
    """Whose histories, whose AUC in GAUC."""
    item: str | None = None
    """What is recommended; a feature of this name is the item catalogue."""
    time: Time | None = None
    """Order of events; ties keep the order of the file."""

    @property
    def columns(self) -> dict[str, str]:
        """Raw column of each role that is given."""
        roles = {"user": self.user, "item": self.item, "time": self.time and self.time.column}
        return {role: column for role, column in roles.items() if column is not None}


class Label(Spec):
    """A binary target."""

    name: str
    expr: str | None = None
    """SQL expression giving 0/1 or a boolean. None: the column called `name`."""
    where: str | None = None
    """SQL condition; events for which it does not hold are no examples, yet stay in histories."""


# ---------------------------------------------------------------------------------- encodings
class VocabEncoding(Spec):
    """Known values get ids 1, 2, ... by falling frequency in training; 0 is every other value.

    Where training goes on from a checkpoint they keep the ids they had, and new ones follow.
    """

    kind: Literal["vocab"] = "vocab"
    min_count: Annotated[int, Field(ge=1)] = 1
    """Rarer values are out of vocabulary."""
    max_size: Annotated[int, Field(ge=1)] | None = None
    """Keeps the most frequent values."""


class HashEncoding(Spec):
    """A 63-bit hash of the value's text, the same on every machine and version."""

    kind: Literal["hash"]
    size: Annotated[int, Field(ge=1)] | None = None
    """Ids are the hash modulo this. None: the whole hash, for tables that hash by themselves."""


class IdentityEncoding(Spec):
    """The value is the id."""

    kind: Literal["identity"]
    size: Annotated[int, Field(ge=1)]
    """Ids lie in 0 ... size - 1; another value is an error that names it."""


Encoding = Annotated[VocabEncoding | HashEncoding | IdentityEncoding, Field(discriminator="kind")]


# ----------------------------------------------------------------------------------- features
class FeatureBase(Spec):
    """What every feature has."""

    name: str
    """Name everywhere: in tables, metrics and messages."""
    renamed_from: str | None = None
    """The feature's first name, from before it was renamed; stays for good. Hashes go by it."""

    @property
    def first_name(self) -> str:
        """The name that hashed tables know it by, whatever it is called now."""
        return self.renamed_from or self.name


class ColumnFeature(FeatureBase):
    """A feature computed from the columns of one row."""

    column: str | None = None
    """Raw column. None: the column called `name`."""
    expr: str | None = None
    """SQL expression over the raw columns, instead of `column`."""

    @model_validator(mode="after")
    def _column_or_expr(self) -> ColumnFeature:
        if self.column is not None and self.expr is not None:
            raise ValueError("expr: allowed is a column or an expr, got both; drop one")
        return self

    @property
    def source_column(self) -> str:
        """The raw column, where there is no expression."""
        return self.column or self.name


class EmbeddedFeature(ColumnFeature):
    """A feature that looks up rows of a table."""

    table: str | None = None
    """Table it reads. None: one of its own, of its own name."""
    dim: Annotated[int, Field(ge=1)] | None = None
    """Width of its own table (not with `table`)."""
    probes: Annotated[int, Field(ge=1)] = 1
    """Rows fetched per id and concatenated, in tables that share rows (unified)."""


class Categorical(EmbeddedFeature):
    """One value, or several, out of a set."""

    kind: Literal["categorical"]
    encoding: Encoding = VocabEncoding()
    split: str | None = None
    """Separator of a text that holds several values."""
    pooling: Literal["sum", "mean"] = "mean"
    """How the rows of several values become one; in a sequence, those of each event."""
    fill: Scalar | None = None
    """Value that a null stands for. None: a null is an error."""
    like: str | None = None
    """Another categorical feature whose vocabulary and table this one shares."""


class Bucketized(EmbeddedFeature):
    """A number cut into ranges, each with a row."""

    kind: Literal["bucketized"]
    boundaries: tuple[float, ...] | None = None
    """Rising numbers; a value equal to one belongs to the range above it."""
    quantiles: Annotated[int, Field(ge=2)] | None = None
    """Number of ranges of equal frequency in training, instead of `boundaries`."""
    fill: float | None = None
    """Number that a null or NaN stands for. None: it is an error."""

    @model_validator(mode="after")
    def _boundaries_or_quantiles(self) -> Bucketized:
        if (self.boundaries is None) == (self.quantiles is None):
            got = "neither" if self.boundaries is None else "both"
            raise ValueError(
                f"boundaries: needs exactly one of boundaries and quantiles, got {got}"
            )
        if self.boundaries is not None:
            rising = all(low < high for low, high in pairwise(self.boundaries))
            if not self.boundaries or not rising:
                raise ValueError(f"boundaries: must be rising, got {list(self.boundaries)}")
        return self


class Dense(ColumnFeature):
    """A number that enters the model as it is."""

    kind: Literal["dense"]
    transform: Literal["log1p", "signed_log1p", "sqrt"] | None = None
    """Applied first; signed_log1p is sign(x) log(1 + |x|)."""
    clip: tuple[float, float] | None = None
    """Lowest and highest value, after the transform."""
    standardize: bool = False
    """Subtract the mean and divide by the standard deviation of the training rows, last."""
    fill: float | Literal["mean"] | None = None
    """Raw number that a null or NaN stands for, or the training mean. None: it is an error."""

    @model_validator(mode="after")
    def _clip_rises(self) -> Dense:
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip: must be lowest, then highest, got {list(self.clip)}")
        return self


class Vector(ColumnFeature):
    """A list of numbers of fixed length, computed elsewhere."""

    kind: Literal["vector"]
    size: Annotated[int, Field(ge=1)]
    """Length of every list; another length is an error."""


class Sequence(FeatureBase):
    """The user's earlier events, oldest first: never the event itself, nothing later."""

    kind: Literal["sequence"]
    of: str | tuple[str, ...]
    """Categorical or bucketized features, read from each earlier event. One of several values gives
    a vector per event, by its own pooling; the item has one value."""
    max_length: Annotated[int, Field(ge=1)]
    """The most recent events are kept."""
    point_in_time: Literal[True] = True
    """Histories end before the event they belong to; there is no other way here."""
    where: str | None = None
    """SQL condition on the earlier events."""
    times: str | None = None
    """SQL expression over the raw columns: when each event happened, as seconds since 1970, date or
    datetime. For models that read time."""
    pooling: Literal["none", "sum", "mean"] = "none"
    """none: models get the sequence; else one vector of its rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features it is made of."""
        return (self.of,) if isinstance(self.of, str) else self.of


Feature = Annotated[
    Categorical | Bucketized | Dense | Vector | Sequence, Field(discriminator="kind")
]


# ---------------------------------------------------------------------------------- the whole
class Defaults(Spec):
    """Values for what features and tables leave open."""

    dim: Annotated[int, Field(ge=1)] = 16


class FeatureSet(Spec):
    """A whole feature file."""

    sources: dict[str, EventSource | AttributeSource]
    """`events` and any number of attribute tables."""
    entity: Entity = Entity()
    label: tuple[Label, ...] = ()
    """Targets; a single one needs no list."""
    weight: str | None = None
    """SQL expression: weight of an example in the loss."""
    split: Split = RandomSplit(kind="random")
    defaults: Defaults = Defaults()
    tables: dict[str, Table] = Field(default_factory=dict)
    """Named tables; a feature that names none has a full table of its own."""
    features: tuple[Feature, ...]

    def feature(self, name: str) -> Any:
        """The feature of that name.

        Raises:
            KeyError: there is none.
        """
        for feature in self.features:
            if feature.name == name:
                return feature
        raise KeyError(name)

    def of_kind(self, *kinds: type) -> tuple[Any, ...]:
        """Features of the given classes, in file order."""
        return tuple(f for f in self.features if isinstance(f, kinds))

    def table_of(self, name: str) -> str:
        """The logical table that a feature, or a sequence's column `sequence.of`, reads.

        Raises:
            KeyError: no feature of that name reads a table.
        """
        feature = self.feature(name.rpartition(".")[2])
        if not isinstance(feature, EmbeddedFeature):
            raise KeyError(name)
        if isinstance(feature, Categorical) and feature.like is not None:
            return self.table_of(feature.like)
        return feature.table or feature.name

    def resolved_tables(self) -> dict[str, Table]:
        """All logical tables with their widths: the named ones, then those of single features."""
        tables: dict[str, Table] = {
            name: _with_dims(table, default=self.defaults.dim)
            for name, table in self.tables.items()
        }
        for feature in self.embedded:
            name = self.table_of(feature.name)
            if name == feature.name and name not in tables:
                tables[name] = FullTable(dim=feature.dim or self.defaults.dim)
        return tables

    @property
    def embedded(self) -> tuple[Any, ...]:
        """Features that look up rows of tables, in file order."""
        return self.of_kind(EmbeddedFeature)

    @property
    def events(self) -> EventSource:
        """The event log."""
        source = self.sources["events"]
        assert isinstance(source, EventSource)
        return source

    @property
    def attributes(self) -> dict[str, AttributeSource]:
        """The tables joined to it, by name."""
        return {k: v for k, v in self.sources.items() if isinstance(v, AttributeSource)}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the targets."""
        return tuple(label.name for label in self.label)


def _with_dims(table: Table, *, default: int) -> Table:
    """The table with its width, and those of its roles, filled in."""
    dim = table.dim or default
    if not isinstance(table, DecoupledTable):
        return table.model_copy(update={"dim": dim})
    roles = {role: _with_dims(table.role(role), default=dim) for role in ROLES}
    return table.model_copy(update={"dim": dim, **roles})
