"""What came of a run: rows, nulls, unseen values and scores, beside those of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from recsys.bundle import BundleManifest
from recsys.scoring.counts import EDGES, Counts, ScoreCounts

# A share of unseen values is far from training's by this much; by itself, where that is unknown.
_FAR, _MOST = 0.1, 0.5
# Population stability index above which a distribution is commonly taken to be another.
_STABILITY = 0.25
# Of fewer scores chance alone may exceed it.
_ENOUGH = 1000


def summarize(counts: Counts, manifest: BundleManifest, *, bundle: str) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        counts: Of all parts.
        manifest: Of the bundle; may know what the rows had that its export compared.
        bundle: Identity of the bundle.
    """
    unseen, histograms = manifest.unseen or {}, _histograms(manifest)
    features = {}
    for name, of_feature in counts.features.items():
        features[name] = {"nulls": of_feature.nulls, "filled": of_feature.filled}
        if of_feature.ids:
            share = round(of_feature.unseen / of_feature.ids, 6)
            features[name] |= {"unseen": share, "unseen_in_training": unseen.get(name)}
    scores = {
        name: {
            "mean": round(of_label.total / max(counts.scored - of_label.not_finite, 1), 6),
            "not_finite": of_label.not_finite,
            "histogram": list(of_label.histogram),
            "histogram_in_training": histograms.get(name),
        }
        for name, of_label in counts.scores.items()
    }
    summary: dict[str, Any] = {
        "bundle": bundle,
        "task": manifest.task,
        "rows": {
            "read": counts.read,
            "left_out": counts.left_out,
            "rejected": counts.rejected,
            "scored": counts.scored,
            "written": counts.written,
        },
        "features": features,
        "histogram_edges": [round(float(edge), 6) for edge in EDGES] if scores else [],
        "scores": scores,
    }
    return {**summary, "warnings": list(_warnings(counts, unseen, histograms))}


def _histograms(manifest: BundleManifest) -> Mapping[str, list[int]]:
    """Counts by label, in the ranges of `EDGES`, from those of the manifest, which are finer."""
    found = {}
    for label, histogram in (manifest.score_histogram or {}).items():
        bounds = np.array([0.0, *histogram["edges"], 1.0])
        places = np.searchsorted(EDGES, (bounds[:-1] + bounds[1:]) / 2)
        counts = np.bincount(places, weights=histogram["counts"], minlength=len(EDGES) + 1)
        found[label] = [int(count) for count in counts]
    return found


def stability(counts: np.ndarray, reference: np.ndarray) -> float:
    """Population stability index of two histograms; an empty range counts as a share of 1e-4.

    Source: Yurdakul, Statistical properties of population stability index (2018), eq. 2.1.
    """
    p = np.maximum(counts / counts.sum(), 1e-4)
    q = np.maximum(reference / reference.sum(), 1e-4)
    return float(((p - q) * np.log(p / q)).sum())


def shown(summary: Mapping[str, Any]) -> Iterator[str]:
    """Lines for people."""
    rows = summary["rows"]
    yield (
        f"rows: {rows['read']:,} read, {rows['left_out']:,} left out by events.where, "
        f"{rows['rejected']:,} rejected, {rows['scored']:,} "
        f"{'scored' if summary['task'] == 'ranking' else 'users scored'}"
    )
    for name, of_feature in summary["features"].items():
        said = []
        if of_feature["nulls"]:
            said.append(f"{of_feature['nulls']:,} nulls, {of_feature['filled']:,} filled")
        if of_feature.get("unseen"):
            said.append(f"{of_feature['unseen']:.2%} unseen")
        if said:
            yield f"{name}: {', '.join(said)}"
    for name, of_label in summary["scores"].items():
        yield f"score_{name}: mean {of_label['mean']:.5f}"
    for warning in summary["warnings"]:
        yield f"warning: {warning}"


def _warnings(
    counts: Counts, unseen: Mapping[str, float], histograms: Mapping[str, list[int]]
) -> Iterator[str]:
    if counts.rejected:
        yield f"{counts.rejected:,} rows were rejected; see rejects/"
    for name, of_feature in counts.features.items():
        if not of_feature.ids:
            continue
        share, trained = of_feature.unseen / of_feature.ids, unseen.get(name)
        if trained is not None and abs(share - trained) > _FAR:
            yield f"features.{name}: {share:.1%} of values are unseen, {trained:.1%} at export"
        elif trained is None and share > _MOST:
            yield f"features.{name}: {share:.1%} of values are unseen in training"
    for name, of_label in counts.scores.items():
        yield from _of_scores(name, of_label, histograms.get(name))


def _of_scores(name: str, counts: ScoreCounts, trained: list[int] | None) -> Iterator[str]:
    if counts.not_finite:
        yield f"score_{name}: {counts.not_finite:,} scores are no numbers"
    now, before = np.array(counts.histogram), np.array(trained or [0])
    if now.sum() >= _ENOUGH and before.sum() and now.shape == before.shape:
        index = stability(now, before)
        if index > _STABILITY:
            yield (
                f"score_{name}: is spread otherwise than at export, stability index "
                f"{index:.2f}; up to {_STABILITY} is usual"
            )
