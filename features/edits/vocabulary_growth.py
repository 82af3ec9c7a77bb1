"""How a vocabulary goes on: who stays, who leaves, who comes."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from features.edits.meaning import has_less_room, is_stricter
from features.errors import FeatureConfigError
from features.schema import Vocabulary
from features.spec import VocabEncoding
from features.values import same_kind


@dataclass(frozen=True)
class Growth:
    """What happens to a vocabulary.

    Attributes:
        fitted: The vocabulary of the newest data by the new rules. None: there is no newer data.
        before: Rules of the old vocabulary.
        after: Rules of the new one.
        expired: Values that are to leave, and not to come.
        may_shrink: Whether known values may leave; later ones then move up.
    """

    fitted: Vocabulary | None
    before: VocabEncoding
    after: VocabEncoding
    expired: pl.Series
    may_shrink: bool


def continue_vocabulary(known: Vocabulary, growth: Growth, *, where: str) -> Vocabulary:
    """Known values in their order, then new ones by falling count.

    By a stricter `min_count` those leave that the newest data has more rarely, or not among the
    fitted ones; by a smaller `max_size` all but the most frequent, of known and new ones together.
    Under an unchanged `max_size` known values stay, and new ones come as long as there is room.
    Where values of the newest data are of another kind (text for numbers), nothing goes on: its
    own vocabulary is what is left. Counts are the newest ones that are known.

    Args:
        known: The old vocabulary.
        growth: What happens to it.
        where: The feature, as in messages.

    Raises:
        FeatureConfigError: no type of whole numbers holds both old and new values.
    """
    fitted = growth.fitted
    if fitted is not None and not same_kind(known.values.dtype, fitted.values.dtype):
        return fitted
    table = _together(known, growth, where=where)
    expired = growth.expired.cast(table["value"].dtype, strict=False)
    has_gone = pl.col("value").is_in(expired.implode())
    if growth.may_shrink:
        table = table.filter(~has_gone)
        if is_stricter(growth.before, growth.after):
            table = _by_stricter_rules(table, growth)
    else:
        table = table.filter(pl.col("is_known") | ~has_gone)
    if growth.after.max_size is not None:
        num_known = int(table["is_known"].sum())
        table = table.head(max(num_known, growth.after.max_size))
    return Vocabulary(values=table["value"], counts=table["count"])


def _together(known: Vocabulary, growth: Growth, *, where: str) -> pl.DataFrame:
    """Values, known ones first; `newest` is null where the newest data has not the value."""
    old = pl.DataFrame({"value": known.values, "count": known.counts})
    if growth.fitted is None:
        return old.with_columns(newest=pl.col("count"), is_known=pl.lit(True))
    new = pl.DataFrame({"value": growth.fitted.values, "newest": growth.fitted.counts})
    old, new = _of_one_type(old, new, where=where)
    joined = old.join(new, on="value", how="left", maintain_order="left")
    joined = joined.with_columns(pl.coalesce("newest", "count").alias("count"))
    added = new.join(old, on="value", how="anti", maintain_order="left")
    added = added.with_columns(count=pl.col("newest"), is_known=pl.lit(False))
    joined = joined.with_columns(is_known=pl.lit(True))
    return pl.concat([joined, added.select(joined.columns)])


def _of_one_type(
    old: pl.DataFrame, new: pl.DataFrame, *, where: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both with values of the type that holds all: of the old one, if it does."""
    for dtype in (old["value"].dtype, new["value"].dtype):
        both = [f.with_columns(pl.col("value").cast(dtype, strict=False)) for f in (old, new)]
        if not any(frame["value"].null_count() for frame in both):
            return both[0], both[1]
    raise FeatureConfigError(
        f"{where}: known and new values have no type in common, got {old['value'].dtype} with "
        f"values below 0 and {new['value'].dtype} with values from 2**63 on; allowed are those of "
        f"one of both types; cast the column in the data, or drop such values"
    )


def _by_stricter_rules(table: pl.DataFrame, growth: Growth) -> pl.DataFrame:
    """Without the values that a new `min_count` or `max_size` forbids."""
    if growth.after.min_count > growth.before.min_count:
        table = table.filter(pl.col("newest").fill_null(0) >= growth.after.min_count)
    if growth.after.max_size is None or not has_less_room(growth.before, growth.after):
        return table
    # What the newest data has not, or too rarely to tell, comes last, by the last count known.
    order = [pl.col("newest").fill_null(-1), pl.col("count")]
    kept = table.with_row_index("place").sort(order, descending=True, maintain_order=True)
    return kept.head(growth.after.max_size).sort("place").drop("place")
