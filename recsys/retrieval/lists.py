"""Files of raw ids: who is asked for, and which items may be given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from features.errors import DataError

_NAMED = 3


@dataclass(frozen=True)
class Matched:
    """What of a file was found.

    Attributes:
        places: Where each known id stands in what it was looked for in, in the order of the file.
        unknown: Ids that do not stand there.
    """

    places: pl.Series
    unknown: pl.Series

    def warning(self, option: str, path: Path, *, noun: str) -> str | None:
        """What to say of the unknown ids; None where there are none."""
        if not len(self.unknown):
            return None
        named = ", ".join(repr(value) for value in self.unknown.head(_NAMED))
        more = ", ..." if len(self.unknown) > _NAMED else ""
        return (
            f"{option}: {len(self.unknown):,} of {len(self.unknown) + len(self.places):,} ids in "
            f"{path} are no {noun}, got {named}{more}; they are left out"
        )


def match_ids(
    path: Path, known: pl.Series, *, column: str, option: str, noun: str, may_be_empty: bool
) -> Matched:
    """Look the ids of a file up, as texts; each counts once.

    Args:
        path: Parquet or CSV with a header, of this column or of a single one; a single one of CSV
            may lack the header. Any other file has an id in each line.
        known: All ids.
        column: Raw name of their column.
        option: Who names the file, for messages.
        noun: What the ids are of, for messages.
        may_be_empty: Whether a file without known ids is no mistake.

    Raises:
        DataError: the file cannot be read, or has no known id.
    """
    places = pl.DataFrame({"id": known.cast(pl.String)}).with_row_index("place")
    wanted = _read(path, column=column, option=option, known=places["id"])
    wanted = wanted.unique(maintain_order=True)
    found = wanted.to_frame("id").join(places, on="id", how="left", maintain_order="left")
    matched = Matched(
        found["place"].drop_nulls().cast(pl.Int64),
        found.filter(pl.col("place").is_null())["id"],
    )
    if not len(matched.places) and not may_be_empty:
        named = ", ".join(repr(value) for value in wanted.head(_NAMED)) or "no id"
        examples = ", ".join(repr(value) for value in places["id"].drop_nulls().head(_NAMED))
        raise DataError(
            f"{option}: names no known {noun}, got {named} in {path}; allowed raw ids such as "
            f"{examples}"
        )
    return matched


def _read(path: Path, *, column: str, option: str, known: pl.Series) -> pl.Series:
    try:
        match path.suffix:
            case ".parquet":
                frame = pl.read_parquet(path, glob=False)
            case ".csv":
                frame = pl.read_csv(path, infer_schema=False)
            case _:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
                frame = pl.DataFrame({column: [line.strip() for line in lines if line.strip()]})
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{option}: cannot be read, got {path} ({error})") from None
    if column not in frame.columns and len(frame.columns) != 1:
        raise DataError(
            f"{option}: no column {column!r} in {path}, got {', '.join(frame.columns)}; rename the "
            f"one that has the ids, or keep it alone"
        )
    values = frame[column] if column in frame.columns else frame.to_series()
    if values.dtype.is_nested():
        raise DataError(f"{option}: holds no ids, got type {values.dtype} in {path}; an id in each")
    ids = values.cast(pl.String).drop_nulls()
    if path.suffix == ".csv" and values.name != column and values.name in known:
        return pl.concat([pl.Series([values.name]), ids])  # there is no header
    return ids
