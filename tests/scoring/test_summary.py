"""Counts add up over parts, and what is far from training is said."""

import json
import math
import shutil

import numpy as np
import polars as pl
import pytest

from features.errors import SchemaMismatchError
from recsys.bundle import BundleManifest, read_bundle
from recsys.scoring.counts import EDGES, Counts, FeatureCounts, added_up, count_scores
from recsys.scoring.job import Job
from recsys.scoring.plan import Settings
from recsys.scoring.run import score
from recsys.scoring.summary import shown, stability, summarize


def manifest(*, unseen=None, scores=None):
    """Of a bundle whose export compared these scores."""
    histograms = None
    if scores is not None:
        counts = list(count_scores(scores).histogram)
        histograms = {"click": {"edges": EDGES.tolist(), "counts": counts}}
    return BundleManifest(
        "ranking", ("click",), "", 1, {}, {}, unseen=unseen, score_histogram=histograms
    )


def test_histograms_have_every_score_once():
    scores = np.array([0.0, 0.0005, 0.5, 0.51, 0.9999, 1.0, np.nan, np.inf], np.float32)
    counts = count_scores(scores)
    assert counts.not_finite == 2
    assert sum(counts.histogram) == 6
    assert counts.histogram[0] == 2
    assert counts.histogram[-1] == 2
    below = sum(n for n, edge in zip(counts.histogram, EDGES, strict=False) if edge <= 0.5)
    assert below == 3
    assert counts.total == pytest.approx(0.0005 + 0.5 + 0.51 + 0.9999 + 1, rel=1e-6)


def test_counts_of_parts_add_up_and_survive_json():
    parts = [
        Counts(
            read=n + 1,
            scored=n,
            rejected=1,
            written=n,
            features={"a": FeatureCounts(nulls=n, filled=n, ids=2 * n, unseen=1)},
            scores={"click": count_scores(np.full(n, 0.25, np.float32))},
        )
        for n in (3, 4)
    ]
    again = [Counts.from_content(json.loads(json.dumps(part.to_content()))) for part in parts]
    assert again == parts
    total = added_up(parts)
    assert (total.read, total.scored, total.rejected) == (9, 7, 2)
    assert total.features["a"] == FeatureCounts(nulls=7, filled=7, ids=14, unseen=2)
    assert total.scores["click"] == count_scores(np.full(7, 0.25, np.float32))
    assert added_up([]) == Counts()


def test_the_stability_index_is_that_of_its_formula():
    index = stability(np.array([60, 40]), np.array([50, 50]))
    assert index == pytest.approx(0.1 * math.log(0.6 / 0.5) - 0.1 * math.log(0.4 / 0.5))
    assert stability(np.array([5, 0]), np.array([500, 0])) == 0
    assert stability(np.array([100, 0]), np.array([0, 100])) > 5


def of_scores(values, *, unseen):
    ids = FeatureCounts(ids=100, unseen=unseen)
    scored = values
    return Counts(
        read=len(scored),
        scored=len(scored),
        features={"a": ids},
        scores={"click": count_scores(scored)},
    )


def test_warnings_follow_training():
    usual, other = np.tile([[0.01, 0.02, 0.1], [0.7, 0.9, 0.99]], 500).astype(np.float32)
    trained = manifest(unseen={"a": 0.3}, scores=usual)
    assert summarize(of_scores(usual, unseen=35), trained, bundle="")["warnings"] == []
    summary = summarize(of_scores(other, unseen=45), trained, bundle="")
    unseen, spread = summary["warnings"]
    assert unseen == "features.a: 45.0% of values are unseen, 30.0% at export"
    assert spread.startswith("score_click: is spread otherwise than at export, stability index")
    assert any(line.startswith("warning: score_click") for line in shown(summary))
    few = of_scores(other[:500], unseen=30)
    assert summarize(few, trained, bundle="")["warnings"] == []
    # Where nothing is known of training, only what no training would have.
    assert summarize(of_scores(other, unseen=45), manifest(), bundle="")["warnings"] == []
    [unseen] = summarize(of_scores(other, unseen=55), manifest(), bundle="")["warnings"]
    assert unseen == "features.a: 55.0% of values are unseen in training"


def test_nulls_fills_and_unseen_values_are_those_of_the_data(bundles, own_log, tmp_path):
    items = pl.read_parquet(own_log / "items.parquet")
    items = items.with_columns(tags=pl.lit("new|tag0"))
    items.write_parquet(own_log / "items.parquet")
    for name in "abc":
        file = own_log / "log" / f"{name}.parquet"
        events = pl.read_parquet(file)
        row = pl.int_range(pl.len())
        user = pl.when(row % 2 == 0).then(pl.lit("nobody")).otherwise("user_id")
        events.with_columns(user_id=user).write_parquet(file)
    settings = Settings(rows_per_part=64)
    sources = {"events": str(own_log / "log")}
    summary = score(Job(bundles.plain, str(own_log), tmp_path / "out", sources, settings))
    assert summary["features"]["tags"]["unseen"] == 0.5
    known = read_bundle(bundles.plain)[1].vocabularies["user_id"].values
    scored = pl.concat([pl.read_parquet(own_log / "log" / f"{name}.parquet") for name in "abc"])
    share = 1 - scored["user_id"].is_in(known.implode()).mean()
    assert summary["features"]["user_id"]["unseen"] == pytest.approx(share, abs=1e-6)
    assert summary["features"]["filled"] == {"nulls": 0, "filled": 0}


def test_bundles_may_know_of_unseen_values_or_not(bundles, tmp_path):
    bundle = shutil.copytree(bundles.plain, tmp_path / "bundle")
    file = bundle / "manifest.json"
    content = json.loads(file.read_text())
    del content["unseen"]
    file.write_text(json.dumps({**content, "training": None}))  # as older versions wrote
    assert read_bundle(bundle)[0].unseen is None
    file.write_text(json.dumps({**content, "unseen": {"a": 0.5}}))
    assert read_bundle(bundle)[0].unseen == {"a": 0.5}
    del content["labels"]
    file.write_text(json.dumps(content))
    with pytest.raises(SchemaMismatchError, match=r"manifest.json: is damaged, got keys"):
        read_bundle(bundle)
