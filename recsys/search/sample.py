"""Validation rows of a trained ranker as it reads them: vectors, dense features and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from features.errors import CheckpointMismatchError, DataError, SchemaMismatchError
from recsys.checkpoint import Manifest
from recsys.data.module import RecsysData
from recsys.training.ranking import RankingTask
from recsys.types import Batch, Embedded

_PART = 8192


@dataclass(frozen=True)
class Sample:
    """Some rows; E of them.

    Attributes:
        embedded: What the ranker reads.
        labels_E: 0 or 1, the first label; NaN where there is none.
        weights_E: Above 0.
    """

    embedded: Embedded
    labels_E: Tensor
    weights_E: Tensor

    def __len__(self) -> int:
        """E."""
        return len(self.labels_E)

    def parts(self) -> list[Embedded]:
        """The rows in pieces that a model's activations have room for."""
        return [
            Embedded(
                fields={key: v[start : start + _PART] for key, v in self.embedded.fields.items()},
                sequences={},
                dense_BN=self.embedded.dense_BN[start : start + _PART],
            )
            for start in range(0, len(self), _PART)
        ]


def data_of(checkpoint: Path, manifest: Manifest) -> RecsysData:
    """The data that a run was trained on, as its model reads it.

    The feature file is the run's own copy where there is one: that of the configuration may have
    been edited since.

    Args:
        checkpoint: Directory of a checkpoint.
        manifest: Of the checkpoint.

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
    data = RecsysData(**{**settings, "features": features, "num_workers": 0})
    found = data.schema.fingerprint()
    if found != manifest.schema_fingerprint:
        raise SchemaMismatchError(
            f"{data.data_dir}: is encoded in another way than in training, got fingerprint "
            f"{found[:12]}; allowed {manifest.schema_fingerprint[:12]}; bring back the data and "
            f"feature file of the run, or train anew"
        )
    return data


def validation_sample(
    task: RankingTask, checkpoint: Path, manifest: Manifest, *, max_examples: int
) -> Sample:
    """Batches spread evenly over the validation rows that a run was judged by.

    Args:
        task: The trained ranker.
        checkpoint: Its directory.
        manifest: Of the checkpoint.
        max_examples: Rows at most.

    Raises:
        RecsysError: the data is gone, has changed, or has no validation rows.
    """
    data = data_of(checkpoint, manifest)
    data.require_examples("val")
    loader = data.val_dataloader()
    step = -(-loader.num_rows // max_examples)
    with torch.no_grad():
        rows = [_read(task, batch) for batch in islice(loader, None, None, step)]
    sample = _joined(rows, max_examples=max_examples)
    if not len(sample):
        raise DataError(
            f"{data.data_dir}: no validation row that counts, got weights of 0; look at weight in "
            f"the feature file"
        )
    return sample


def _read(task: RankingTask, batch: Batch) -> Sample:
    embedded, counts = task.embedder(batch), batch.weights_B > 0
    return Sample(
        Embedded(
            fields={key: vectors[counts] for key, vectors in embedded.fields.items()},
            sequences={},
            dense_BN=embedded.dense_BN[counts],
        ),
        labels_E=batch.labels_BT[counts, 0],
        weights_E=batch.weights_B[counts],
    )


def _joined(rows: list[Sample], *, max_examples: int) -> Sample:
    def join(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)[:max_examples]

    keys = rows[0].embedded.fields
    return Sample(
        Embedded(
            fields={key: join([r.embedded.fields[key] for r in rows]) for key in keys},
            sequences={},
            dense_BN=join([r.embedded.dense_BN for r in rows]),
        ),
        labels_E=join([r.labels_E for r in rows]),
        weights_E=join([r.weights_E for r in rows]),
    )
