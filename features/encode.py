"""Raw columns -> ids and numbers, as polars expressions."""

from __future__ import annotations

import polars as pl
from polars_hash import NonCryptographicHashingNameSpace

from features.checks import (
    broken,
    counted,
    label_holds,
    label_value,
    reading,
    value_checks,
    vector_values,
)
from features.columns import (
    ROW,
    SPLIT,
    WEIGHT,
    entity_column,
    keep_column,
    label_column,
    time_column,
)
from features.dense import encoded, filled
from features.errors import DataError
from features.raw_checks import described, type_mistakes
from features.schema import FeatureSchema, Vocabulary
from features.spec import (
    Bucketized,
    Categorical,
    ColumnFeature,
    Dense,
    FeatureSet,
    HashEncoding,
    IdentityEncoding,
    Sequence,
    Vector,
    VocabEncoding,
)
from features.sql import parse_sql
from features.times import as_seconds
from features.values import (
    canonical_type,
    categorical_values,
    is_multi_valued,
    raw_times,
    raw_types,
    same_kind,
    timed_sequences,
)

_ID = "_id"


def encode(schema: FeatureSchema, frame: pl.LazyFrame, *, with_labels: bool) -> pl.LazyFrame:
    """Encode events that were checked, in their order.

    Gives `_row`, `_split` if the frame has it, raw `_entity.user`, `.item` and `.time`; every
    feature but sequences under its name: Int64 ids, List(Int64) where there are several values,
    Float32 numbers, Array(Float32) vectors; `_keep.NAME` for sequences with `where`, `NAME.@time`
    (Int64 seconds) for those with `times`; with labels `_label.NAME` (null where `where` does not
    hold) and `_weight`.

    Args:
        schema: Fitted to training data.
        frame: Events with `_row`, from `scan_events`.
        with_labels: Also labels and weight.

    Raises:
        DataError: a column's type is not that of training. Values are checked by `fit_schema` and
            `encode_checked`.
    """
    feature_set = schema.feature_set
    mistakes = type_mistakes(feature_set, frame, with_labels=with_labels)
    types = {} if mistakes else raw_types(feature_set, frame)
    mistakes += [] if mistakes else _changed_types(schema, types)
    if mistakes:
        raise DataError(mistakes)
    columns = [pl.col(ROW)]
    if SPLIT in frame.collect_schema():
        columns.append(pl.col(SPLIT))
    columns += _entity_columns(feature_set)
    for feature in feature_set.of_kind(ColumnFeature):
        columns.append(_feature(schema, feature, types[feature.name]).alias(feature.name))
    for sequence in feature_set.of_kind(Sequence):
        if sequence.where is not None:
            keep = parse_sql(sequence.where).fill_null(False)
            columns.append(keep.alias(keep_column(sequence.name)))
    for sequence in timed_sequences(feature_set):
        name = time_column(sequence.name)
        columns.append(as_seconds(raw_times(sequence), types[name]).alias(name))
    if with_labels:
        columns += _label_columns(feature_set)
    found = frame.select(columns)
    names = found.collect_schema().names()
    for feature in feature_set.of_kind(Categorical):
        if _is_joined(schema, feature):
            found = _look_up(found, feature.name, schema.vocabulary_of(feature.name))
    return found.select(names)


def encode_checked(
    schema: FeatureSchema, frame: pl.DataFrame, *, where: str, with_labels: bool
) -> pl.DataFrame:
    """Check every value of a chunk, then encode it.

    Args:
        schema: Fitted to training data.
        frame: Raw events; without `_row` they are numbered from 0.
        where: What messages call the chunk.
        with_labels: Also labels and weight.

    Raises:
        DataError: with all that is wrong in the chunk.
    """
    if ROW not in frame.columns:
        frame = frame.with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.Int64))
    lazy = frame.lazy()
    try:
        encoded_frame = encode(schema, lazy, with_labels=with_labels)
    except DataError as error:
        raise DataError(f"{where}: {mistake}" for mistake in error.mistakes) from None
    types = raw_types(schema.feature_set, lazy)
    checks = value_checks(schema.feature_set, types, with_labels=with_labels)
    with reading(where):
        totals = lazy.select(counted(checks)).collect().row(0, named=True) if checks else {}
        mistakes = broken(checks, totals, frame=lazy, where=where)
        if mistakes:
            raise DataError(mistakes)
        return encoded_frame.collect()


def hash63(text: pl.Expr) -> pl.Expr:
    """The lower 63 bits of xxHash64 (seed 0) of the UTF-8 text, as Int64.

    Source: Collet, xxHash, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
    """
    bits = NonCryptographicHashingNameSpace(text).xxhash64()
    return (bits & pl.lit(2**63 - 1, dtype=pl.UInt64)).cast(pl.Int64)


def _changed_types(schema: FeatureSchema, types: dict[str, pl.DataType]) -> list[str]:
    mistakes = []
    for feature in schema.feature_set.of_kind(Categorical):
        dtype, where = types[feature.name], f"features.{feature.name} ({described(feature)})"
        several = is_multi_valued(feature, dtype)
        if several != schema.is_multi_valued(feature.name):
            was, now = ("a list", "single values")[:: 1 if not several else -1]
            mistakes.append(f"{where}: must be {was}, as in training, got {now} of type {dtype}")
        if isinstance(schema.encoding_of(feature.name), VocabEncoding):
            known = schema.vocabulary_of(feature.name).values.dtype
            got = canonical_type(feature, dtype)
            assert got is not None, "types are checked before"
            if not same_kind(known, got):
                mistakes.append(
                    f"{where}: must hold values of type {known}, as in training, got "
                    f"{dtype}; cast it in the data"
                )
    return mistakes


def _entity_columns(feature_set: FeatureSet) -> list[pl.Expr]:
    roles = feature_set.entity.columns
    return [pl.col(column).alias(entity_column(role)) for role, column in roles.items()]


def _label_columns(feature_set: FeatureSet) -> list[pl.Expr]:
    columns = [
        pl.when(label_holds(label))
        .then(label_value(label).cast(pl.Float32))
        .alias(label_column(label.name))
        for label in feature_set.label
    ]
    weight = pl.lit(1.0) if feature_set.weight is None else parse_sql(feature_set.weight)
    return [*columns, weight.cast(pl.Float32).alias(WEIGHT)]


def _feature(schema: FeatureSchema, feature: ColumnFeature, dtype: pl.DataType) -> pl.Expr:
    match feature:
        case Categorical():
            return _categorical(schema, feature, dtype)
        case Bucketized():
            boundaries = pl.Series(schema.boundaries[feature.name], dtype=pl.Float64)
            return pl.lit(boundaries).search_sorted(filled(feature), side="right").cast(pl.Int64)
        case Dense():
            return encoded(feature, schema.moments[feature.name])
        case Vector():
            return vector_values(feature, dtype).list.to_array(feature.size)
    raise AssertionError(feature)


def _is_joined(schema: FeatureSchema, feature: Categorical) -> bool:
    """Whether ids come of a join: several times as fast as an Enum where a vocabulary is large."""
    has_vocabulary = isinstance(schema.encoding_of(feature.name), VocabEncoding)
    return has_vocabulary and not schema.is_multi_valued(feature.name)


def _look_up(frame: pl.LazyFrame, feature: str, vocabulary: Vocabulary) -> pl.LazyFrame:
    """Replace the feature's values by their ids; the order of rows stays."""
    known = vocabulary.values
    ids = pl.int_range(1, len(known) + 1, dtype=pl.Int64, eager=True)
    table = pl.LazyFrame({feature: known, _ID: ids})
    values = pl.col(feature).cast(known.dtype, strict=False)
    joined = frame.with_columns(values).join(table, on=feature, how="left", maintain_order="left")
    return joined.with_columns(pl.col(_ID).fill_null(0).alias(feature)).drop(_ID)


def _categorical(schema: FeatureSchema, feature: Categorical, dtype: pl.DataType) -> pl.Expr:
    """Ids, or the values where a join makes ids of them."""
    values = categorical_values(feature, dtype)
    if _is_joined(schema, feature):
        return values
    if is_multi_valued(feature, dtype):
        return values.list.eval(_ids(schema, feature, pl.element()))
    return _ids(schema, feature, values)


def _ids(schema: FeatureSchema, feature: Categorical, values: pl.Expr) -> pl.Expr:
    match schema.encoding_of(feature.name):
        case IdentityEncoding():
            return values.cast(pl.Int64, strict=False)
        case HashEncoding(size=size):
            hashed = hash63(values.cast(pl.String))
            return hashed if size is None else hashed % size
        case VocabEncoding():
            known = schema.vocabulary_of(feature.name).texts
            position = values.cast(pl.String).cast(known, strict=False).to_physical()
            return (position.cast(pl.Int64) + 1).fill_null(0)
