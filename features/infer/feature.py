"""Guessing what a column is good for as a feature, or why it is none."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from features.infer.entity import as_instant_column
from features.infer.label import says_outcome
from features.infer.names import ID_WORDS, words_of
from features.infer.profile import ColumnProfile
from features.infer.separators import find_separator
from features.leaks import NEAR_ONE, category_auc, number_auc, pure_value

MOST_IDS = 5_000_000
"""Above it, ids are hashed instead of listed in a vocabulary."""
HASHED_TABLE = "hashed"
_FEW_NUMBERS = 64
_FEW_AMOUNTS = 16
_MANY_IDS = 1_000
_LONG_TAIL = 0.3
_NEARLY_ALL = 0.9
_SKEWED = 2.0
_LONG_TAILED = 12.0  # of a normal distribution 0
_LARGEST = 3e38
_CODES = frozenset(
    {"zip", "zipcode", "postcode", "type", "category", "cat", "class", "group", "brand", "hour",
     "weekday", "month", "dow", "device", "os", "city", "country", "region", "state", "segment",
     "cluster", "channel", "version", "code", "gender", "sex", "occupation", "level", "slot",
     "department", "dept", "genre", "language", "lang", "browser", "publisher", "site", "domain"}
)  # fmt: skip
_QUANTITIES = frozenset(
    {"count", "num", "number", "price", "amount", "age", "size", "length", "duration", "score",
     "rate", "ratio", "ctr", "total", "avg", "mean", "sum", "days", "hours", "minutes", "seconds",
     "year", "years", "distance", "weight", "height", "width", "views", "popularity", "income",
     "cost", "value", "temperature"}
)  # fmt: skip


@dataclass(frozen=True)
class FeatureLine:
    """A feature without its name, as text.

    Attributes:
        name: Of the feature.
        settings: Keys with their YAML.
        comment: Behind the line; starts with `guess: ` where a person should look.
    """

    name: str
    settings: tuple[tuple[str, str], ...]
    comment: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A column that becomes no feature.

    Attributes:
        column: Its name.
        reason: In few words.
    """

    column: str
    reason: str


def guess_feature(
    column: ColumnProfile,
    *,
    name: str,
    source: str,
    may_be_missing: bool,
    is_attribute: bool,
    values: pl.Series,
    labels: pl.Series | None,
) -> FeatureLine | LeftOut:
    """A feature, or the reason why there is none.

    Args:
        column: Of its own table.
        name: Of the feature.
        source: YAML of the column's name; equal to `name` where nothing need be said.
        may_be_missing: Whether some events have no value.
        is_attribute: Whether it is of an attribute table.
        values: Of sampled events.
        labels: Of the same events; None where there is no label.
    """
    reason = _useless(column, is_attribute=is_attribute)
    if reason is not None:
        return LeftOut(column.name, reason)
    found = _settings(column, may_be_missing=may_be_missing, is_attribute=is_attribute)
    if isinstance(found, LeftOut):
        return found
    settings, comment = found
    if labels is not None:
        told = gives_label_away(values, labels, is_number=settings[0][1] == "dense")
        if told:
            return LeftOut(column.name, told)
    if source != name:
        settings = (settings[0], ("column", source), *settings[1:])
    return FeatureLine(name, settings, comment)


def gives_label_away(values: pl.Series, labels: pl.Series, *, is_number: bool) -> str | None:
    """In what way a column says the label, if it does."""
    if values.dtype.is_nested():
        return None
    auc = number_auc(values, labels) if is_number else category_auc(values, labels)
    if auc is not None and auc >= NEAR_ONE:
        return f"gives the label away, AUC {auc:.3f} alone"
    pure = None if is_number else pure_value(values, labels)
    if pure is not None:
        return f"gives the label away: {pure.value!r} means {pure.label}, {pure.share:.0%} of rows"
    return None


def guess_id(column: ColumnProfile, *, may_be_missing: bool = False) -> FeatureLine:
    """A user, item or other id, which is worth a feature whatever its shape."""
    encoding, comment = _encoding(column, is_attribute=False)
    fill = _category_fill(column) if may_be_missing else ()
    return FeatureLine(column.name, (("kind", "categorical"), *encoding, *fill), comment)


def _useless(column: ColumnProfile, *, is_attribute: bool) -> str | None:
    if column.num_present == 0:
        return "no values"
    dtype = column.dtype
    if not (dtype.is_numeric() or dtype == pl.Boolean or column.is_text or column.is_list):
        if column.is_date:
            return "a date: make a number or category of it by expr"
        return f"type {dtype}"
    if column.is_list:
        return None
    if column.num_distinct <= 1:
        return "one value"
    if as_instant_column(column) is not None:
        return "a date: make a number or category of it by expr"
    if says_outcome(column.name) and not is_attribute:
        return "guess: known only after the event"
    is_unique = column.num_distinct >= _NEARLY_ALL * column.num_present and column.num_rows > 20
    is_amount = column.is_whole_number and set(words_of(column.name)) & _QUANTITIES
    has_names = column.may_be_id or (is_attribute and not dtype.is_float())
    if is_unique and has_names and not is_amount:
        return f"another value in nearly every row{' of its table' if is_attribute else ''}"
    if column.is_text and find_separator(column.values) is None and _is_prose(column.values):
        return "free text"
    return None


def _is_prose(texts: pl.Series) -> bool:
    """Whether texts are sentences: many, and of several words."""
    different = texts.cast(pl.String).unique()
    words = different.str.count_matches(r"\s\S").mean()
    return len(different) > _MANY_IDS and isinstance(words, float) and words >= 4


Settings = tuple[tuple[str, str], ...]


def _settings(
    column: ColumnProfile, *, may_be_missing: bool, is_attribute: bool
) -> tuple[Settings, str] | LeftOut:
    if column.is_list:
        return _of_list(column, may_be_missing=may_be_missing)
    if column.dtype == pl.Boolean:
        fill = (("fill", "false"),) if may_be_missing else ()
        return (("kind", "categorical"), *fill), "guess: a null is false" if fill else ""
    if column.is_text:
        return _of_text(column, may_be_missing=may_be_missing, is_attribute=is_attribute)
    doubt = ""
    if column.is_whole_number:
        is_category, doubt = _is_category(column)
        if is_category:
            encoding, comment = _encoding(column, is_attribute=is_attribute)
            fill = _category_fill(column) if may_be_missing else ()
            return (("kind", "categorical"), *encoding, *fill), comment or doubt
    return _of_number(column, may_be_missing=may_be_missing, doubt=doubt)


def _of_list(column: ColumnProfile, *, may_be_missing: bool) -> tuple[Settings, str] | LeftOut:
    dtype = column.dtype
    assert isinstance(dtype, pl.List | pl.Array)
    elements = column.values.explode().drop_nulls()
    if (isinstance(dtype, pl.Array) and len(dtype.shape) > 1) or elements.dtype.is_nested():
        return LeftOut(column.name, f"type {dtype}")
    has_inner_nulls = bool(column.values.explode().null_count())
    if elements.dtype.is_float():
        lengths = column.values.arr.to_list() if isinstance(dtype, pl.Array) else column.values
        sizes = lengths.list.len().unique().to_list()
        if may_be_missing or has_inner_nulls or len(sizes) != 1 or sizes[0] == 0:
            return LeftOut(column.name, "lists of numbers with gaps, or of different lengths")
        if not elements.is_finite().all():
            return LeftOut(column.name, "lists with NaN or infinite numbers")
        return (("kind", "vector"), ("size", str(sizes[0]))), ""
    if elements.dtype not in (pl.String, pl.Boolean) and not elements.dtype.is_integer():
        return LeftOut(column.name, f"type {dtype}")
    if len(elements) == 0:
        return LeftOut(column.name, "no values")
    fill: Settings = ()
    if has_inner_nulls:
        fill = (("fill", {pl.String: "unknown", pl.Boolean: "false"}.get(elements.dtype, "0")),)
    return (("kind", "categorical"), *fill), "several values, averaged"


def _of_text(
    column: ColumnProfile, *, may_be_missing: bool, is_attribute: bool
) -> tuple[Settings, str]:
    separator = find_separator(column.values)
    if separator is not None:
        return (
            (("kind", "categorical"), ("split", f'"{separator}"')),
            "several values, averaged" if separator != " " else "guess: several words, averaged",
        )
    encoding, comment = _encoding(column, is_attribute=is_attribute)
    fill = _category_fill(column) if may_be_missing else ()
    return (("kind", "categorical"), *encoding, *fill), comment


def _is_category(column: ColumnProfile) -> tuple[bool, str]:
    """Whether whole numbers are names, and why it may be otherwise."""
    words = set(words_of(column.name))
    assert column.minimum is not None
    assert column.maximum is not None
    if words & (ID_WORDS | _CODES):
        return True, ""
    many = column.num_distinct > _FEW_NUMBERS
    if words & _QUANTITIES:
        is_few = column.num_distinct <= _FEW_AMOUNTS
        return is_few, "guess: few different numbers" if is_few else ""
    if not many:
        return True, "guess: few different numbers"
    spread = column.maximum - column.minimum + 1
    if column.minimum > column.num_distinct or spread > 1000 * column.num_distinct:
        return True, "guess: the numbers are names, not amounts"
    return False, "guess: a number, not a category"


def _of_number(
    column: ColumnProfile, *, may_be_missing: bool, doubt: str
) -> tuple[Settings, str] | LeftOut:
    if column.num_infinite:
        return LeftOut(column.name, f"infinite in {column.num_infinite:,} rows")
    assert column.minimum is not None
    assert column.maximum is not None
    if max(abs(column.minimum), abs(column.maximum)) > _LARGEST:
        return LeftOut(column.name, "numbers that are too large for 32 bits")
    settings: list[tuple[str, str]] = [("kind", "dense")]
    if may_be_missing:
        settings.append(("fill", "mean"))
    if column.num_distinct > 2 and _has_long_tail(column.values.cast(pl.Float64)):
        settings.append(("transform", "log1p" if column.minimum >= 0 else "signed_log1p"))
    settings.append(("standardize", "true"))
    comment = doubt
    if may_be_missing and not comment:
        comment = "guess: a missing number is the mean"
    return tuple(settings), comment


def _has_long_tail(numbers: pl.Series) -> bool:
    """Whether a few numbers lie far out, on one side or on both."""
    skew, kurtosis = numbers.skew(), numbers.kurtosis()
    return abs(skew or 0.0) > _SKEWED or (kurtosis or 0.0) > _LONG_TAILED


def _encoding(column: ColumnProfile, *, is_attribute: bool) -> tuple[Settings, str]:
    """How many ids a category has, and which of them are worth a row."""
    if column.num_distinct > MOST_IDS:
        comment = f"guess: {column.num_distinct:,} ids share rows by hash"
        return (("encoding", "hash"), ("table", HASHED_TABLE)), comment
    share = column.num_single / max(column.num_distinct, 1)
    if not is_attribute and column.num_distinct > _MANY_IDS and share > _LONG_TAIL:
        comment = f"guess: {share:.0%} of the {column.num_distinct:,} values occur once"
        return (("encoding", "{min_count: 2}"),), comment
    return (), ""


def _category_fill(column: ColumnProfile) -> Settings:
    """A value for missing ones that no other has."""
    if column.is_text:
        return (("fill", "unknown"),)
    if column.dtype == pl.UInt64:
        return (("fill", "0"),)
    below = int(column.minimum or 0) - 1
    return (("fill", str(below if -(2**53) < below < -1 else -1)),)
