"""A bundle beside the model it was made of, on the same rows.

B examples · T labels · V items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isinf, isnan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import CheckpointMismatchError
from recsys.exporting.sample import Sample
from recsys.metrics import CatalogueMetrics, RankingMetrics, rank_targets, remove_seen, top_k
from recsys.scoring.scorer import Scorer
from recsys.tables.few_bits import TableDType
from recsys.training.ranking import RankingTask
from recsys.training.task import Task
from recsys.types import Batch

EXACT: Mapping[str, float] = {"ranking": 1e-6, "sequence": 1e-5}
"""Of probabilities, and of scores of items by the largest score, for they have no scale of their
own; sums of some hundred products in another order are as far apart."""

MAX_DROP: Mapping[TableDType, float] = {"fp16": 1e-4, "int8": 5e-4, "int4": 2e-3}
"""By how much AUC or NDCG may fall, and logloss rise."""

_PLACES = 10
# Of log odds, as the scorer's own; 20 ranges.
_EDGES: NDArray[np.float64] = 1 / (1 + np.exp(-np.arange(-9.0, 10.0)))

Outputs = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Parity:
    """How two ways to score compare.

    Attributes:
        num_rows: That were compared.
        largest_difference: Of a probability; of a score of an item, by the largest score. Infinite
            where a score is no number.
        before: Metrics of the first way, by name; none where no row has a label.
        after: Of the second one.
        histogram: Of the second one's probabilities, as `BundleManifest.score_histogram`.
    """

    num_rows: int
    largest_difference: float
    before: Mapping[str, float]
    after: Mapping[str, float]
    histogram: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    def to_content(self, *, split: str) -> dict[str, Any]:
        """For the manifest: `split`, `num_rows`, `largest_difference`, `before` and `after`."""
        return {
            "split": split,
            "num_rows": self.num_rows,
            "largest_difference": self.largest_difference,
            "before": dict(self.before),
            "after": dict(self.after),
        }


def outputs_of_task(task: Task, *, width: int | None = None) -> Outputs:
    """Probabilities (B, T), or scores of items (B, V), of the model itself.

    Args:
        task: The model.
        width: First numbers of a sequence model's vectors that count. None: all.
    """

    @torch.inference_mode()
    def outputs(batch: Batch) -> Tensor:
        if isinstance(task, RankingTask):
            return task(batch).sigmoid()
        return task(batch, width=width)

    return outputs


def outputs_of_bundle(scorer: Scorer) -> Outputs:
    """The same of a bundle."""
    is_ranking = scorer.manifest.task == "ranking"
    return scorer.probabilities if is_ranking else scorer.catalogue_scores


def compare(first: Outputs, second: Outputs, sample: Sample, *, labels: tuple[str, ...]) -> Parity:
    """Score the sample both ways.

    Args:
        first: The way to compare with.
        second: The way to be compared.
        sample: Rows.
        labels: Of a ranking task; none for a sequence task.
    """
    metrics = _CatalogueSides() if not labels else _RankingSides(labels)
    num_rows, largest = 0, 0.0
    for batch in sample.batches:
        is_row_B = batch.weights_B > 0  # others fill the last batch up
        if not is_row_B.any():
            continue
        before, after = first(batch), second(batch)
        metrics.update(batch, before, after)
        scale = 1.0 if labels else before[is_row_B].abs().max().clamp(min=1).item()
        found = (after - before)[is_row_B].abs().max().item() / scale
        num_rows += int(is_row_B.sum())
        largest = max(largest, inf if isnan(found) else found)
    return Parity(num_rows, largest, *metrics.compute(), metrics.histogram())


def check_exact(parity: Parity, *, task: Task, what: str) -> None:
    """Refuse what does not give the same scores.

    Args:
        parity: Of the two ways.
        task: The model.
        what: Is compared, for the message.

    Raises:
        CheckpointMismatchError: a difference is too large, or a score is no number.
    """
    allowed = EXACT[task.reads]
    if parity.largest_difference > allowed:
        raise CheckpointMismatchError(
            f"{what}: does not score as the model does, got a difference of "
            f"{parity.largest_difference:g} in {parity.num_rows:,} rows; allowed {allowed:g}; "
            f"nothing was exported"
        )


def check_drop(parity: Parity, *, dtype: TableDType, max_drop: float | None) -> None:
    """Refuse tables of too few bits.

    Args:
        parity: Of the model and the bundle.
        dtype: Of the bundle's tables.
        max_drop: What is allowed. None: `MAX_DROP`.

    Raises:
        CheckpointMismatchError: a metric gets worse by more, or a score is no number.
    """
    allowed = MAX_DROP[dtype] if max_drop is None else max_drop
    if isinf(parity.largest_difference):
        raise CheckpointMismatchError(
            f"--table-dtype {dtype}: does not score as the model does, got scores that are no "
            f"numbers; nothing was exported"
        )
    mistakes = [
        f"--table-dtype {dtype}: {name} gets worse by too much, got {before:.5f} before and "
        f"{parity.after[name]:.5f} after; allowed {allowed:g}; take more bits, or set --max-drop"
        for name, before in parity.before.items()
        if _drop(name, before, parity.after[name]) > allowed
    ]
    if mistakes:
        raise CheckpointMismatchError(mistakes)


def _drop(name: str, before: float, after: float) -> float:
    """How much worse it got; NaN where the rows leave it undefined, which nothing exceeds."""
    return after - before if name.startswith("logloss") else before - after


class _RankingSides:
    """AUC and logloss of both sides by label, and a histogram of the second."""

    def __init__(self, labels: Iterable[str]) -> None:
        self._sides = {label: (RankingMetrics(), RankingMetrics()) for label in labels}
        self._counts = {label: np.zeros(len(_EDGES) + 1, np.int64) for label in labels}

    def update(self, batch: Batch, *sides_BT: Tensor) -> None:
        """Take in a batch."""
        is_row_B = batch.weights_B > 0
        for column, (label, metrics) in enumerate(self._sides.items()):
            for metric, probabilities_BT in zip(metrics, sides_BT, strict=True):
                logits_B = torch.logit(probabilities_BT[:, column].double(), eps=1e-12)
                metric.update(logits_B, batch.labels_BT[:, column], batch.weights_B, batch.users_B)
            found = np.searchsorted(_EDGES, sides_BT[1][is_row_B, column].numpy(), side="right")
            self._counts[label] += np.bincount(found, minlength=len(_EDGES) + 1)

    def compute(self) -> tuple[dict[str, float], dict[str, float]]:
        """Of each side."""
        found: tuple[dict[str, float], dict[str, float]] = ({}, {})
        for label, metrics in self._sides.items():
            for side, metric in zip(found, metrics, strict=True):
                values = metric.compute()
                if values["num_examples"]:
                    side |= {f"{n}/{label}": float(values[n]) for n in ("auc", "logloss")}
        return found

    def histogram(self) -> Mapping[str, Mapping[str, Sequence[float]]]:
        """By label."""
        edges = [float(f"{edge:.6g}") for edge in _EDGES]
        return {n: {"edges": edges, "counts": c.tolist()} for n, c in self._counts.items()}


class _CatalogueSides:
    """NDCG of both sides."""

    def __init__(self) -> None:
        self._sides: tuple[CatalogueMetrics, ...] = ()

    def update(self, batch: Batch, *sides_BV: Tensor) -> None:
        """Take in a batch."""
        num_items = sides_BV[0].shape[1]
        places = min(_PLACES, num_items - 1)
        self._sides = self._sides or tuple(
            CatalogueMetrics(ks=(places,), num_items=num_items) for _ in sides_BV
        )
        is_row_B = batch.weights_B > 0
        for metric, scores_BV in zip(self._sides, sides_BV, strict=True):
            candidates_BV = remove_seen(
                scores_BV, batch.targets_B, batch.seen_values, batch.seen_lengths_B
            )[is_row_B]
            ranks_B = rank_targets(candidates_BV, batch.targets_B[is_row_B])
            metric.update(ranks_B, top_k(candidates_BV, places))

    def compute(self) -> tuple[dict[str, float], dict[str, float]]:
        """Of each side."""
        before, after = (
            {n: float(v) for n, v in side.compute().items() if n.startswith("ndcg@")}
            for side in self._sides
        )
        return before, after

    def histogram(self) -> Mapping[str, Mapping[str, Sequence[float]]]:
        """None: scores of items are no probabilities."""
        return {}
