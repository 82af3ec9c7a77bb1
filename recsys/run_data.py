"""The data that a run was trained on, from what its checkpoint says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

from features.errors import CheckpointMismatchError, SchemaMismatchError
from recsys.checkpoint import Manifest, read_schema
from recsys.data.loader import BatchLoader
from recsys.data.module import RecsysData
from recsys.types import Batch


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


def spread_batches(loader: BatchLoader, *, max_examples: int) -> Iterator[Batch]:
    """Batches of about so many rows, spread evenly over all.

    Args:
        loader: In file order.
        max_examples: Rows that are wanted at most; the last batch may go beyond.
    """
    step = -(-loader.num_rows // max_examples)
    return islice(loader, None, None, step)
