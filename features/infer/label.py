"""Guessing what there is to predict: a 0/1 column, a rating, a count, a kind of event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from features.consistency import NAME
from features.infer.names import feature_name, sql_name, sql_text, words_of
from features.infer.profile import ColumnProfile

OUTCOMES = (
    "label", "click", "clicked", "clk", "target", "y", "conversion", "converted", "purchase",
    "purchased", "bought", "buy", "like", "liked", "install", "installed", "response", "outcome",
    "watched", "viewed", "read", "engaged", "engagement", "booked", "booking", "order", "ordered",
    "cart", "follow", "share", "shared", "comment", "favorite", "favourite", "is", "success",
)  # fmt: skip
RATINGS = ("rating", "ratings", "stars", "star", "score", "grade", "overall", "vote")
COUNTS = (
    "clicks", "plays", "views", "purchases", "orders", "conversions", "installs", "likes",
    "playcount", "listens", "count", "counts",
)  # fmt: skip
ACTIONS = ("event", "action", "behavior", "behaviour", "interaction", "type")
POSITIVE = (
    "purchase", "buy", "bought", "transaction", "order", "pay", "conversion", "convert", "install",
    "like", "favorite", "fav", "cart", "addtocart", "click", "clk", "play", "watch",
)  # fmt: skip
YES = ("yes", "y", "true", "t", "1")
NO = ("no", "n", "false", "f", "0")
_HIGH = 0.75
_MOST_RATINGS = 201


@dataclass(frozen=True)
class GuessedLabel:
    """A label, and the raw column that it is made of.

    Attributes:
        name: Of the label.
        expr: SQL; None where the column has the label's name.
        column: That says it.
        condition: SQL for a positive event.
        where: SQL for the rows that have a label; None for all.
        doubt: What a person should look at; empty where there is little doubt.
    """

    name: str
    expr: str | None
    column: str
    condition: str
    where: str | None = None
    doubt: str = ""


def guess_label(
    columns: Mapping[str, ColumnProfile], *, taken: Iterable[str], asked: str | None = None
) -> GuessedLabel | None:
    """The most likely label, or None.

    Args:
        columns: Of the events.
        taken: Columns that say who, what and when.
        asked: The column that a person named.
    """
    free = {n: c for n, c in columns.items() if n not in set(taken) and c.num_distinct > 1}
    if asked is not None:
        column = columns[asked]
        return next((found for make in _MAKERS if (found := make(column, columns))), None)
    for make, words in zip(_MAKERS, (OUTCOMES, ACTIONS, RATINGS, COUNTS), strict=True):
        named = {name: rank for name in free if (rank := _rank(name, words)) is not None}
        for name in sorted(named, key=lambda n: named[n]):
            if found := make(free[name], columns):
                return found
    binary = [column for column in free.values() if is_binary(column)]
    if len(binary) == 1:
        return _binary(binary[0], columns, doubt="the only column of 0 and 1")
    return None


def says_outcome(name: str) -> bool:
    """Whether a column of this name is known only after the event."""
    after = (*OUTCOMES, *RATINGS, *COUNTS, "dwell", "revenue", "probability", "prob", "predicted",
             "prediction", "pctr", "ctr", "feedback", "refund")  # fmt: skip
    harmless = {"is", "y", "order", "target", "count", "counts", "share", "read"}
    return bool(set(words_of(name)) & set(after) - harmless)


def is_binary(column: ColumnProfile) -> bool:
    """Whether values are 0 and 1, or booleans."""
    if column.dtype.is_numeric():
        is_01 = (column.minimum, column.maximum) == (0, 1)
        return is_01 and column.num_distinct == 2
    return column.dtype.base_type().__name__ == "Boolean" and column.num_distinct == 2


def _binary(
    column: ColumnProfile, columns: Mapping[str, ColumnProfile], *, doubt: str = ""
) -> GuessedLabel | None:
    if not is_binary(column):
        return _yes_or_no(column, columns) if column.is_text else None
    source = sql_name(column.name)
    condition = f"{source} = 1" if column.dtype.is_numeric() else source
    if NAME.fullmatch(column.name) and feature_name(column.name, taken=set()) == column.name:
        return GuessedLabel(
            column.name, None, column.name, condition, _known(column), doubt or _rare(column)
        )
    name = feature_name(column.name, taken=set(columns))
    return GuessedLabel(name, source, column.name, condition, _known(column), doubt)


def _rare(column: ColumnProfile) -> str:
    mean = column.values.cast(float).mean()
    if isinstance(mean, float) and min(mean, 1 - mean) < 0.001:
        return f"only {min(mean, 1 - mean):.2%} of the rows have the rarer value"
    return ""


def _yes_or_no(column: ColumnProfile, columns: Mapping[str, ColumnProfile]) -> GuessedLabel | None:
    texts = column.values.unique().cast(str).to_list()
    yes = [text for text in texts if text.lower() in YES]
    if len(texts) != 2 or len(yes) != 1 or not all(t.lower() in (*YES, *NO) for t in texts):
        return None
    condition = f"{sql_name(column.name)} = {sql_text(yes[0])}"
    name = feature_name(f"{column.name}_{yes[0]}", taken=set(columns))
    return GuessedLabel(name, condition, column.name, condition, _known(column))


def _action(column: ColumnProfile, columns: Mapping[str, ColumnProfile]) -> GuessedLabel | None:
    """The most valuable kind of event that occurs."""
    if not column.is_text or column.num_distinct > 20:
        return None
    texts = sorted(column.values.unique().cast(str).to_list())
    for wanted in POSITIVE:
        found = [t for t in texts if wanted in (*words_of(t), "".join(words_of(t)))]
        if found:
            condition = f"{sql_name(column.name)} = {sql_text(found[0])}"
            name = feature_name("is_" + found[0], taken=set(columns))
            doubt = f"the others are {', '.join(t for t in texts if t != found[0])[:60]}"
            return GuessedLabel(name, condition, column.name, condition, _known(column), doubt)
    return None


def _rating(column: ColumnProfile, columns: Mapping[str, ColumnProfile]) -> GuessedLabel | None:
    """Ratings in the upper quarter of their scale, or the best of them that splits the rows."""
    if not column.dtype.is_numeric() or not 2 < column.num_distinct <= _MOST_RATINGS:
        return None
    if column.num_infinite or column.maximum is None:
        return None
    ordered = column.values.cast(float).unique().sort()
    top = [value for value in ordered if value >= _HIGH * column.maximum]
    threshold = top[0] if top and top[0] > ordered[0] else ordered[-1]
    share = (column.values.cast(float) >= threshold).mean()
    condition = f"{sql_name(column.name)} >= {threshold:g}"
    doubt = f"{share:.0%} of the rows; ratings are {ordered[0]:g} to {ordered[-1]:g}"
    name = feature_name("liked", taken=set(columns))
    return GuessedLabel(name, condition, column.name, condition, _known(column), doubt)


def _count(column: ColumnProfile, columns: Mapping[str, ColumnProfile]) -> GuessedLabel | None:
    """Any at all; where there is always one, more than the median."""
    values = column.values
    if not {*words_of(column.name)} <= {*COUNTS, "num", "n", "total", "sum"}:
        return None  # such as item_count, which says nothing of what the user did
    if not column.dtype.is_numeric() or column.minimum is None or column.num_infinite:
        return None
    least = 0.0
    if column.minimum > 0:
        median = values.cast(float).median()
        least = median if isinstance(median, float) else column.minimum
    share = (values.cast(float) > least).mean()
    if not isinstance(share, float) or not 0 < share < 1:
        return None
    condition = f"{sql_name(column.name)} > {least:g}"
    name = feature_name(f"{'any' if least == 0 else 'many'}_{column.name}", taken=set(columns))
    doubt = f"{share:.0%} of the rows" + ("" if least == 0 else "; above the median")
    return GuessedLabel(name, condition, column.name, condition, _known(column), doubt)


_MAKERS: tuple[Callable[[ColumnProfile, Mapping[str, ColumnProfile]], GuessedLabel | None], ...] = (
    _binary,
    _action,
    _rating,
    _count,
)


def _known(column: ColumnProfile) -> str | None:
    """Which rows have a label."""
    if not column.num_missing:
        return None
    source = sql_name(column.name)
    if column.dtype.is_float():  # to polars, NaN is no null, and above all numbers
        return f"{source} <= {column.maximum!r}"
    return f"{source} is not null"


def _rank(name: str, words: tuple[str, ...]) -> int | None:
    """Place of the best word of a name; a name without others comes first."""
    found = words_of(name)
    ranks = [words.index(word) for word in found if word in words and word != "is"]
    if "".join(found) in words:
        return words.index("".join(found))
    return min(ranks) + len(words) * (len(found) - 1) if ranks else None
