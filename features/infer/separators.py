"""Finding the separator of texts that hold several values."""

from __future__ import annotations

import polars as pl

SEPARATORS = ("|", ";", ", ", ",", " / ", " ")
_MOST_VALUES = 20_000
_LONG_TEXT = 200


def find_separator(texts: pl.Series) -> str | None:
    """What divides the values of a column, or None where each text is one value.

    Texts that are lists are made of few parts which come back again and again; titles and names
    are not.

    Args:
        texts: Without nulls.
    """
    different = texts.cast(pl.String).unique().sort().head(_MOST_VALUES)
    if len(different) < 3 or (different.str.len_chars() > _LONG_TEXT).any():
        return None
    return next((s for s in SEPARATORS if _divides(different, s)), None)


def _divides(different: pl.Series, separator: str) -> bool:
    num_divided = different.str.contains(separator, literal=True).sum()
    pieces = different.str.split(separator).explode().drop_nulls()
    pieces = pieces.filter(pieces != "")
    least = 0.5 if separator == " " else 0.1
    if len(pieces) == 0 or num_divided < least * len(different):
        return False
    num_pieces = pieces.n_unique()
    # A value of its own in nearly every text is a name or a number in words.
    return 1 < num_pieces <= len(different) / 2 and len(pieces) >= 4 * num_pieces
