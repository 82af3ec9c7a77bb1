"""What a feature is worth to a trained ranker: the AUC that is lost when its column is shuffled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from recsys.metrics import RankingMetrics
from recsys.protocols import Ranker
from recsys.search.sample import Sample


def salience(
    ranker: Ranker, sample: Sample, groups: Mapping[str, Sequence[str]], *, seed: int = 0
) -> tuple[float, dict[str, float]]:
    """AUC of the first label, and how much of it shuffling each group of fields takes.

    The vectors of a field are shuffled over the rows, which is the same as shuffling its ids. There
    is one order for all, so that features differ by what they are worth and not by its luck.

    Args:
        ranker: In evaluation mode.
        sample: The rows.
        groups: Fields that are shuffled together, by feature.
        seed: Of the order.
    """
    order_E = torch.randperm(len(sample), generator=torch.Generator().manual_seed(seed))
    whole = auc(ranker, sample)
    drops = {}
    for feature, keys in groups.items():
        fields = sample.embedded.fields
        shuffled = {**fields, **{key: fields[key][order_E] for key in keys}}
        embedded = replace(sample.embedded, fields=shuffled)
        drops[feature] = whole - auc(ranker, replace(sample, embedded=embedded))
    return whole, drops


@torch.inference_mode()
def auc(ranker: Ranker, sample: Sample) -> float:
    """AUC of the first label; NaN where it has one class only."""
    logits_E = torch.cat([ranker(part)[:, 0] for part in sample.parts()])
    metrics = RankingMetrics()
    nobody_E = torch.full((len(sample),), -1)
    metrics.update(logits_E, sample.labels_E, sample.weights_E, nobody_E)
    return float(metrics.compute()["auc"])
