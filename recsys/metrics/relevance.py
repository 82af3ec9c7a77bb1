"""The true relevance of clicks, as a simulated log comes with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.schema import FeatureSchema
from recsys.metrics.searches import Floats, Ints, Searches


@dataclass(frozen=True)
class Lookup:
    """Values by key.

    Attributes:
        keys: Rising.
        values: One per key.
    """

    keys: Ints
    values: Floats

    def __call__(self, wanted: Ints, *, missing: float) -> Floats:
        """The value of each key, or `missing`."""
        if not len(self.keys):
            return np.full(wanted.shape, missing)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[places] == wanted, self.values[places], missing)


@dataclass(frozen=True)
class TrueRelevance:
    """attraction(target, clicked) * decay(distance).

    Attributes:
        attraction: By `target * num_categories + clicked`; pairs that it lacks have none.
        num_categories: Numbers of categories are below.
        decay: By distance - 1; 0 further away.
    """

    attraction: Lookup
    num_categories: int
    decay: NDArray[np.float64]

    @classmethod
    def read(
        cls, directory: Path, *, schema: FeatureSchema | None = None, category: str = "category"
    ) -> Self:
        """The truth of a simulated log.

        Args:
            directory: That `recsys simulate --kind histories` wrote.
            schema: Fitted to the log: categories are ids of a feature of it, a vocabulary; of id 0
                nothing is relevant. None: they are those of the files.
            category: This feature.
        """
        pairs = pl.read_parquet(directory / "attraction.parquet")
        decay = pl.read_parquet(directory / "decay.parquet").sort("distance")["decay"]
        if schema is not None:
            raw = schema.vocabulary_of(category).values
            ids = pl.DataFrame({"raw": raw, "id": np.arange(1, len(raw) + 1)})
            for column in ("target_category", "clicked_category"):
                pairs = pairs.join(ids, left_on=column, right_on="raw", how="inner")
                pairs = pairs.with_columns(pl.col("id").alias(column)).drop("id")
        targets = pairs["target_category"].to_numpy().astype(np.int64)
        clicked = pairs["clicked_category"].to_numpy().astype(np.int64)
        num_categories = int(max(targets.max(initial=0), clicked.max(initial=0))) + 1
        keys = targets * num_categories + clicked
        order = np.argsort(keys)
        values = pairs["attraction"].to_numpy()[order]
        return cls(Lookup(keys[order], values), num_categories, decay.to_numpy())

    def of(self, searches: Searches) -> Floats:
        """Relevance of each click, (L,)."""
        targets_L = searches.targets_B[searches.rows_L]
        keys_L = targets_L * self.num_categories + searches.clicked_L
        # A number that no pair has would else be taken for another pair.
        keys_L = np.where(searches.clicked_L < self.num_categories, keys_L, -1)
        distances_L = np.minimum(searches.distances_L, len(self.decay) + 1)
        decay_L = np.append(self.decay, 0.0)[distances_L - 1]
        return self.attraction(keys_L, missing=0.0) * decay_L
