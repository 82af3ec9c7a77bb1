"""Rows of the run's data that a bundle is compared with its model on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from features.errors import DataError, RecsysError
from features.schema import FeatureSchema
from features.spec import Categorical, VocabEncoding
from recsys.checkpoint import Manifest
from recsys.run_data import data_of_run, spread_batches
from recsys.types import Batch

# Many more do not make a difference of AUC much surer, and take longer than the rest of the export.
_MAX_ROWS = {"ranking": 65_536, "sequence": 4_096}
_UNCHECKED = "or add --unchecked, and nobody knows whether the bundle scores as the model does"


@dataclass(frozen=True)
class Sample:
    """Batches as validation has them.

    Attributes:
        split: Which rows they are of.
        batches: Spread evenly over these.
    """

    split: str
    batches: tuple[Batch, ...]


def sample_of_run(
    checkpoint: Path, manifest: Manifest, *, reads: Literal["ranking", "sequence"]
) -> Sample:
    """Validation rows of the data that the run was trained on; test rows where there are none.

    Args:
        checkpoint: Its directory.
        manifest: Of the checkpoint.
        reads: Rows that its task trains on.

    Raises:
        RecsysError: the data is gone or has changed, or all of it was trained on.
    """
    try:
        data = data_of_run(checkpoint, manifest, reads=reads)
        split = next((name for name in ("val", "test") if data.has_split(name)), None)
    except RecsysError as error:
        needed = f"RUN: its data is needed to compare the bundle: bring it back, {_UNCHECKED}"
        raise type(error)([*error.mistakes, needed]) from error
    if split is None:
        raise DataError(
            f"{data.data_dir}: has no row to compare the bundle on, got no validation and no test "
            f"rows; give the split some and train anew, {_UNCHECKED}"
        )
    return Sample(split, tuple(spread_batches(data, split, max_examples=_MAX_ROWS[data.task])))


def unseen_shares(schema: FeatureSchema, batches: Iterable[Batch]) -> dict[str, float]:
    """Share of values that have no id of their own, by feature with a vocabulary.

    Args:
        schema: What the batches were encoded with.
        batches: Of a ranking model; rows without a weight do not count.
    """
    known = [
        feature.name
        for feature in schema.feature_set.of_kind(Categorical)
        if isinstance(schema.encoding_of(feature.name), VocabEncoding)
    ]
    counts = dict.fromkeys(known, 0), dict.fromkeys(known, 0)
    for batch in batches:
        if batch.ids is None:
            continue
        for name in known:
            ids = batch.ids[name]
            is_row = torch.repeat_interleave(batch.weights_B > 0, ids.lengths())
            counts[0][name] += int((is_row & (ids.values() == 0)).sum())
            counts[1][name] += int(is_row.sum())
    return {name: round(counts[0][name] / max(counts[1][name], 1), 6) for name in known}
