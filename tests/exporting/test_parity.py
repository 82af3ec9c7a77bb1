"""Every model: eager, as a bundle in 32, 8 and 4 bits, and for ONNX Runtime."""

import shutil
from dataclasses import replace

import pytest
import torch
from bundles import ENCODERS, HISTORY_RANKERS, SIZES, data_module, write_data
from safetensors.torch import save_file
from test_export_score import FEATURES as RANKING
from test_score_histories import FEATURES as HISTORIES
from test_score_sequences import WITH_SIDES as SEQUENCE

import models
from features.errors import CheckpointMismatchError
from recsys.bundle import MODEL, SEARCH, TABLES, write_manifest
from recsys.exporting.files import Origin, model_fingerprint, write_files
from recsys.exporting.parity import (
    EXACT,
    Parity,
    check_drop,
    check_exact,
    compare,
    outputs_of_bundle,
    outputs_of_task,
)
from recsys.exporting.portable import write_program
from recsys.exporting.sample import Sample
from recsys.metrics import RankingMetrics
from recsys.scoring.scorer import Scorer
from recsys.tables.config import TablesConfig
from recsys.tables.packing import packed
from recsys.training.ranking import RankingTask
from recsys.training.sequence import SequenceTask

# By how much probabilities, or scores beside the largest one, may move.
APART = {"fp32": 1e-6, "int8": 2e-2, "int4": 0.3}

# One of each kind at all times; each export compares its own bundle with its model besides.
EVERY = [
    pytest.param(name, marks=() if name in ("FM", "DARE", "GSASRec") else pytest.mark.slow)
    for name in models.__all__
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("parity")
    write_data(directory / "data")
    return directory


@pytest.fixture(scope="module")
def made(folder):
    """Task, bundle in 32 bits and sample of a model, made once; rows are large, to matter."""
    known = {}

    def make(name):
        if name not in known:
            known[name] = _make(folder, name)
        return known[name]

    return make


def _make(folder, name):
    kind = "sequence" if name in ENCODERS else "ranking"
    features = HISTORIES if name in HISTORY_RANKERS else RANKING
    (folder / f"{kind}.yaml").write_text(SEQUENCE if kind == "sequence" else features)
    model, tables = getattr(models, name), TablesConfig(dense_max_bytes=10**9)
    if kind == "sequence":
        task = SequenceTask(encoder=model, tables=tables)
    else:
        settings = SIZES.get(name, {})
        task = RankingTask(ranker=lambda layout: model(layout, **settings), tables=tables)
    data = data_module(folder, kind)
    task.build(data.schema)
    with torch.no_grad():
        for rows in task.embedder.replicated.weights.values():
            rows.mul_(10)
    batches = tuple(data.val_dataloader())
    bundle = folder / "bundles" / name
    bundle.mkdir(parents=True)
    write_files(task.eval(), bundle, origin=Origin("run", 1, {}), table_dtype="fp32")
    return task, bundle, Sample("val", batches)


def in_dtype(task, bundle, out, dtype):
    """A bundle with other tables."""
    shutil.copytree(bundle, out)
    save_file(packed(task.embedder, dtype=dtype), out / TABLES)
    write_manifest(out, replace(Scorer(bundle).manifest, table_dtype=dtype))
    return out


@pytest.mark.parametrize("name", EVERY)
def test_bundles_score_as_the_model(made, tmp_path, name):
    task, bundle, sample = made(name)
    labels, eager = Scorer(bundle).manifest.labels, outputs_of_task(task)
    expected = torch.cat([eager(batch)[batch.weights_B > 0] for batch in sample.batches])
    assert expected.std(dim=0).max() > 1e-3
    for dtype, most in APART.items():
        place = bundle if dtype == "fp32" else in_dtype(task, bundle, tmp_path / dtype, dtype)
        second = outputs_of_bundle(Scorer(place))
        parity = compare(eager, second, sample, labels=labels)
        assert parity.num_rows == len(expected)
        assert parity.largest_difference <= (EXACT[task.reads] if dtype == "fp32" else most)
        assert dtype == "fp32" or parity.largest_difference > 1e-5  # it is measured
        for label, found in parity.histogram.items():
            scores = torch.cat([second(b)[b.weights_B > 0] for b in sample.batches])
            scores_E = scores[:, labels.index(label)].tolist()
            assert sum(found["counts"]) == len(scores_E)
            places = [sum(edge <= score for edge in found["edges"]) for score in scores_E]
            assert found["counts"] == [places.count(place) for place in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize("name", models.__all__)
def test_every_model_in_onnx_runtime(made, tmp_path, name):
    pytest.importorskip("onnxruntime")
    task, bundle, sample = made(name)
    scorer = Scorer(bundle)
    for file in (MODEL, SEARCH):
        if (bundle / file).is_file():
            program = torch.export.load(bundle / file)
            other = write_program(program, tmp_path / f"{file}.onnx", kind="onnx")
            if file == MODEL:
                scorer.program = other
            else:
                scorer.search = replace(scorer.search, program=other)
    outputs = outputs_of_bundle(scorer)
    parity = compare(outputs_of_task(task), outputs, sample, labels=scorer.manifest.labels)
    assert parity.largest_difference <= EXACT[task.reads]


def test_metrics_are_those_of_the_rows(made):
    task, bundle, sample = made("FM")
    outputs, labels = outputs_of_task(task), Scorer(bundle).manifest.labels
    parity = compare(outputs, lambda batch: 1 - outputs(batch), sample, labels=labels)
    metrics = RankingMetrics()
    for batch in sample.batches:
        logits_B = outputs(batch)[:, 0].logit()
        metrics.update(logits_B, batch.labels_BT[:, 0], batch.weights_B, batch.users_B)
    auc = metrics.compute()["auc"].item()
    assert parity.before["auc/click"] == pytest.approx(auc, abs=1e-9)
    assert parity.after["auc/click"] == pytest.approx(1 - auc, abs=1e-9)
    with pytest.raises(CheckpointMismatchError, match=r"difference of .* in \d+ rows; allowed"):
        check_exact(parity, task=task, what="the bundle")


def test_scores_that_are_no_numbers_are_refused(made):
    task, bundle, sample = made("FM")
    outputs, labels = outputs_of_task(task), Scorer(bundle).manifest.labels
    parity = compare(outputs, lambda batch: outputs(batch) * torch.nan, sample, labels=labels)
    with pytest.raises(CheckpointMismatchError, match="difference of inf"):
        check_exact(parity, task=task, what="the bundle")
    with pytest.raises(CheckpointMismatchError, match="no numbers"):
        check_drop(parity, dtype="int8", max_drop=1.0)


@pytest.mark.parametrize(
    ("name", "before", "after", "is_refused"),
    [
        ("auc/click", 0.7, 0.6996, False),
        ("auc/click", 0.7, 0.6994, True),
        ("auc/click", 0.7, 0.8, False),
        ("logloss/click", 0.4, 0.3, False),
        ("logloss/click", 0.4, 0.4006, True),
        ("ndcg@10", 0.1, 0.0994, True),
        ("auc/click", float("nan"), float("nan"), False),
    ],
)
def test_what_gets_worse_by_too_much_is_refused(name, before, after, is_refused):
    parity = Parity(10, 0.1, {name: before}, {name: after})
    if not is_refused:
        check_drop(parity, dtype="int8", max_drop=None)
        return
    says = f"int8: {name} gets worse by too much, got {before:.5f} before and {after:.5f} after; "
    with pytest.raises(CheckpointMismatchError, match=says + "allowed 0.0005"):
        check_drop(parity, dtype="int8", max_drop=None)
    check_drop(parity, dtype="int8", max_drop=0.01)


def test_the_fingerprint_is_of_the_numbers(made):
    task, _, _ = made("FM")
    before = model_fingerprint(task)
    assert before == model_fingerprint(task)
    rows = next(iter(task.embedder.replicated.weights.values()))
    with torch.no_grad():
        kept = rows[0, 0].item()
        rows[0, 0] += 1
        assert model_fingerprint(task) != before
        rows[0, 0] = kept
    assert model_fingerprint(task) == before
