"""Validation rows of a trained ranker as it reads them: vectors, dense features and labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from features.errors import DataError
from recsys.checkpoint import Manifest
from recsys.run_data import data_of_run, spread_batches
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
    data = data_of_run(checkpoint, manifest)
    data.require_examples("val")
    batches = spread_batches(data, "val", max_examples=max_examples)
    with torch.no_grad():
        rows = [_read(task, batch) for batch in batches]
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
