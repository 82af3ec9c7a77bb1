"""The data that a run was trained on, from what its checkpoint says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from features.errors import CheckpointMismatchError, SchemaMismatchError
from recsys.checkpoint import Manifest, read_schema
from recsys.data.module import RecsysData
from recsys.types import Batch

_PLACES = 16


def data_of_run(
    checkpoint: Path, manifest: Manifest, *, reads: Literal["ranking", "sequence"] = "ranking"
) -> RecsysData:
    """Its data, encoded as it was in training.

    The feature file is the run's own copy where there is one: that of the configuration may have
    been edited since.

    Args:
        checkpoint: Its directory.
        manifest: Of the checkpoint.
        reads: Rows that its task trains on.

    Raises:
        RecsysError: the data is gone, or has changed.
    """
    settings = manifest.config.get("data")
    if not isinstance(settings, Mapping):
        raise CheckpointMismatchError(
            f"{checkpoint}: does not say what data it was trained on, got no data settings; train "
            f"with `python train.py fit -c ...`"
        )
    copy = checkpoint.parent.parent / "features.yaml"
    features = str(copy) if copy.is_file() else settings["features"]
    data = RecsysData(**{**settings, "features": features, "num_workers": 0, "task": reads})
    if manifest.config.get("run", {}).get("continue_from") is not None:
        # Of a run that went on from another one, the ids are those of the other, whatever the data.
        data.given_schema = replace(read_schema(checkpoint), feature_set=data.feature_set)
    found = data.schema.fingerprint()
    if found != manifest.schema_fingerprint:
        raise SchemaMismatchError(
            f"{data.data_dir}: is encoded in another way than in training, got fingerprint "
            f"{found[:12]}; allowed {manifest.schema_fingerprint[:12]}; bring back the data and "
            f"feature file of the run, or train anew"
        )
    return data


def spread_batches(data: RecsysData, split: str, *, max_examples: int) -> Iterator[Batch]:
    """Batches of about so many rows, from places spread evenly over a split.

    Files are often sorted, by user or by day: the first rows are not like the others.

    Args:
        data: Has rows of the split.
        split: `val` or `test`.
        max_examples: Rows that are wanted at most; the last batch may go beyond.
    """
    batch_size = min(data.eval_batch_size, -(-max_examples // _PLACES))
    loader = data.evaluation_dataloader(split, batch_size=batch_size)
    num_batches = min(len(loader), -(-max_examples // batch_size))
    chosen = {*np.linspace(0, len(loader) - 1, num_batches).round().astype(int).tolist()}
    return (batch for number, batch in enumerate(loader) if number in chosen)
