"""Sequence tasks with sharded item tables against replicated ones and against dense references.

With SGD, or Adagrad without decay, a row that no batch reads stays as it is in both, so sharded and
replicated training are the same mathematics.
"""

import math
import os
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest
import torch
from gloo import run_processes, whole
from training.runs import Losses, data_module, fit_task, saved_tensors, write_inputs

from models import BERT4Rec, SASRec
from recsys.losses import BinaryCrossEntropy, FullSoftmax, GeneralizedBCE, SampledSoftmax
from recsys.protocols import SequenceLoss
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.hashing import salt
from recsys.training.masks import cloze_masks
from recsys.training.negatives import ItemPopularity, draw_negatives
from recsys.training.sequence import SequenceTask
from recsys.types import History

# Two batches make an epoch, so step 3 is in the middle of one. A small EPS would make steps of the
# rounding errors where the gradient is zero.
LR, EPS, STEPS, STOP = 2.0, 0.01, 5, 3
DENSE = {
    "sgd": partial(torch.optim.SGD, lr=LR),
    "adagrad": partial(torch.optim.Adagrad, lr=LR / 40, eps=EPS),
}


@dataclass(frozen=True)
class Case:
    loss: SequenceLoss
    encoder: type = SASRec
    output: str = "tied"
    sharding: str = "row_wise"
    optimizer: str = "sgd"
    features: str = "sequence"


def drawn(loss, per, where, **settings):
    return loss(num_negatives=5, negatives_per=per, negatives_from=where, **settings)


CASES = {
    "softmax": Case(drawn(SampledSoftmax, "sequence", "uniform")),
    "softmax-log-q": Case(
        drawn(SampledSoftmax, "batch", "popularity", log_q=True),
        BERT4Rec,
        output="separate",
        sharding="table_wise",
    ),
    "softmax-cloze": Case(drawn(SampledSoftmax, "position", "uniform", log_q=True), BERT4Rec),
    "bce": Case(drawn(BinaryCrossEntropy, "position", "popularity"), sharding="table_wise"),
    "bce-separate": Case(drawn(BinaryCrossEntropy, "batch", "uniform"), output="separate"),
    "gbce-cloze": Case(
        drawn(GeneralizedBCE, "sequence", "popularity"), BERT4Rec, sharding="table_wise"
    ),
    "adagrad": Case(drawn(GeneralizedBCE, "position", "uniform"), optimizer="adagrad"),
    "timed": Case(drawn(SampledSoftmax, "sequence", "popularity"), features="timed"),
}
FULL = {
    "full": Case(FullSoftmax()),
    "full-separate": Case(FullSoftmax(), BERT4Rec, output="separate"),
}
BY_HAND = [name for name in CASES if name not in ("adagrad", "timed")]


def task(case, *, sharded):
    tables = ["item_id"] + ["item_id_output"] * (case.output == "separate")
    dense = DENSE[case.optimizer]
    fused = FusedOptimizer(name=case.optimizer, lr=dense.keywords["lr"], eps=EPS)
    timed = {"time_gaps": True} if case.features == "timed" else {}
    return SequenceTask(
        encoder=partial(case.encoder, dropout=0.0, **timed),
        loss=case.loss,
        item_output=case.output,
        optimizer=dense,
        tables=TablesConfig(
            dense_max_bytes=0 if sharded else 10**9,
            optimizer=fused,
            sharding=dict.fromkeys(tables, case.sharding) if sharded else {},
        ),
        shuffle_ties=case.features == "timed",
        ks=(5,),
    )


class Steps(Losses):
    """Keeps all weights of every step too, and the metrics of every validation."""

    def __init__(self):
        super().__init__()
        self.weights, self.metrics = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        weights = trainer.strategy.sharded.state_dict()
        self.weights.append({plain(n): whole(w) for n, w in weights.items()})

    def on_validation_end(self, trainer, pl_module):
        metrics = trainer.callback_metrics
        self.metrics.append({k: float(v) for k, v in metrics.items() if k.startswith("val/")})


def plain(name):
    """The name that a weight has whatever the store of its table."""
    parts = name.split(".")
    return parts[-2] if "collection" in parts else parts[-1] if "replicated" in parts else name


def train(rank, world_size, directory, jobs):
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    found = {}
    for name, case, sharded, options in jobs:
        built, steps = task(case, sharded=sharded), Steps()
        data = data_module(directory, case.features, batch_size=16)
        arguments = {"world_size": world_size, "max_steps": STEPS, "callbacks": [steps]}
        fit_task(directory, built, data, name, **arguments | options)
        found[name] = (steps.values, steps.weights, steps.metrics)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Losses and weights of every step, and metrics, by name."""
    directory = write_inputs(tmp_path_factory.mktemp("sharding"))
    one = [(name, case, False, {}) for name, case in (CASES | FULL).items()]
    one += [(f"{name}-1", case, True, {}) for name, case in CASES.items()]
    two = [(f"{name}-2", case, True, {}) for name, case in CASES.items()]
    two += [(f"{name}-2", case, False, {}) for name, case in FULL.items()]
    case = CASES["softmax-log-q"]
    one.append(("stopped", case, True, {"max_steps": STOP}))
    two.append(("resumed", case, True, {"resume": "stopped"}))
    found = run_processes(1, train, directory, directory, one)
    return directory, found | run_processes(2, train, directory, directory, two)


@pytest.fixture(scope="module")
def runs_of_four(runs):
    """The same of four processes."""
    directory, found = runs
    four = [(f"{name}-4", case, True, {}) for name, case in CASES.items()]
    four += [(f"{name}-4", case, False, {}) for name, case in FULL.items()]
    return directory, found | run_processes(4, train, directory, directory, four)


@pytest.mark.parametrize(
    ("name", "other"),
    [(name, f"{name}-{n}") for name in CASES for n in (1, 2)] + [(n, f"{n}-2") for n in FULL],
)
def test_the_same_steps_and_metrics_however_tables_are_stored(runs, name, other):
    assert_same_steps(runs[1], name=name, other=other)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES | FULL)
def test_the_same_steps_and_metrics_on_four_processes(runs_of_four, name):
    assert_same_steps(runs_of_four[1], name=name, other=f"{name}-4")


def assert_same_steps(runs, *, name, other):
    (losses, weights, metrics), (other_losses, other_weights, other_metrics) = (
        runs[name],
        runs[other],
    )
    assert len(losses) == STEPS
    assert other_losses == pytest.approx(losses, abs=1e-5)
    assert len(metrics) >= 2
    assert 0 < metrics[0]["val/ndcg@5"] < 1
    for one, two in zip(metrics, other_metrics, strict=True):
        assert two == pytest.approx(one, rel=0, abs=1e-7)
    for step, (one, two) in enumerate(zip(weights, other_weights, strict=True)):
        assert one.keys() == two.keys()
        for key in one:
            pair = map(torch.from_numpy, (two[key], one[key]))
            # Some weights come to 14, whose last place is 1e-6.
            torch.testing.assert_close(
                *pair, atol=1e-5, rtol=3e-6, msg=lambda m, k=key, n=step: f"{k} after step {n}: {m}"
            )
    tables = {"item_id", "item_id_output", "device", "tags"} & weights[0].keys()
    assert len(tables) == 1 + ((CASES | FULL)[name].output == "separate") + 2 * (name == "timed")
    for table in tables:  # the steps did something
        assert abs(weights[-1][table] - weights[0][table]).max() > 1e-3


def test_a_resumed_run_draws_the_negatives_of_the_uninterrupted_one(runs):
    directory, found = runs
    losses, weights, _ = found["softmax-log-q-1"]
    assert found["stopped"][0] == pytest.approx(losses[:STOP], abs=1e-6)
    assert found["resumed"][0] == pytest.approx(losses[STOP:], abs=1e-5)
    assert min(abs(a - b) for a, b in pairwise(losses)) > 1e-3
    saved = saved_tensors(directory, "resumed")
    assert saved.keys() == saved_tensors(directory, "softmax-log-q-1").keys()
    for key, weight in weights[-1].items():
        [tensor] = [t for n, t in saved.items() if plain(n.removeprefix("model.")) == key]
        torch.testing.assert_close(tensor, torch.from_numpy(weight), atol=1e-5, rtol=0, msg=key)


# ------------------------------------------------------------------------ by hand, one step
@pytest.mark.parametrize("name", BY_HAND)
def test_the_first_step_of_a_sharded_run_by_hand(runs, name):
    directory, found = runs
    case, data = CASES[name], data_module(directory, "sequence", batch_size=16)
    built = task(case, sharded=False)
    built.build(data.schema)
    tables = built.embedder.replicated.weights
    output = tables["item_id_output" if case.output == "separate" else "item_id"]
    loss = loss_by_hand(built, next(iter(data.train_dataloader())), tables["item_id"], output, data)
    loss.backward()
    for run in (f"{name}-1", f"{name}-2"):
        losses, weights, _ = found[run]
        assert losses[0] == pytest.approx(loss.item(), abs=1e-5)
        for table, before in tables.items():
            after = before.detach() - LR * before.grad
            assert before.grad.abs().max() > 1e-4
            torch.testing.assert_close(
                torch.from_numpy(weights[0][table]), after, atol=1e-5, rtol=0
            )


def loss_by_hand(built, batch, items_VD, output_VD, data):
    """The mean over all predicting positions of the batch, one position at a time."""
    sequences = batch.sequences["history.item_id"].to_dense()
    lengths_B = torch.tensor([len(ids) for ids in sequences])
    encoder, users_B = built.encoder, batch.users_B
    if encoder.objective == "next":
        inputs = [ids[:-1] for ids in sequences]
        wanted = [list(range(1, len(ids))) for ids in sequences]
        history = History(items_VD[torch.cat(inputs)], lengths_B - 1)
        hidden_MD = encoder(history)
    else:
        sequences = [ids[-built.max_length :] for ids in sequences]
        lengths_B = lengths_B.clamp(max=built.max_length)
        masked_L = cloze_masks(
            users_B, lengths_B, share=0.2, last_only_share=0.1, salt=salt("mask", 0, 0)
        )
        wanted = [m.nonzero().flatten().tolist() for m in masked_L.split(lengths_B.tolist())]
        history = encoder.mask(History(items_VD[torch.cat(sequences)], lengths_B), masked_L)
        hidden_MD = encoder(history)[masked_L]
    vectors_MD = encoder.head(hidden_MD)
    loss, counts_V = built.loss, torch.from_numpy(data.item_counts()).clamp(min=1)
    is_popular = loss.negatives_from == "popularity"
    chance_V = counts_V / counts_V[1:].sum()
    if not is_popular:
        chance_V = torch.full((len(counts_V),), 1 / (len(counts_V) - 1))
    negatives = draw_negatives(
        users_B,
        torch.tensor([len(places) for places in wanted]),
        num_items=len(counts_V),
        count=5,
        per=loss.negatives_per,
        salt=salt("negatives", 0, 0),
        popularity=ItemPopularity(counts_V) if is_popular else None,
    )
    negatives_MK = negatives.ids_SK.repeat_interleave(negatives.sizes_S, dim=0)
    bias_V = torch.zeros(len(counts_V)) if encoder.item_bias_V is None else encoder.item_bias_V
    costs, position = [], 0
    for ids, places, weight in zip(sequences, wanted, batch.weights_B.tolist(), strict=True):
        for place in places:
            vector_D, target = vectors_MD[position], int(ids[place])
            ids_K = negatives_MK[position]
            ids_K = ids_K[ids_K != target]
            position += 1
            if not weight:
                continue
            positive = vector_D @ output_VD[target] + bias_V[target]
            negative_K = output_VD[ids_K] @ vector_D + bias_V[ids_K]
            if loss.log_q:
                negative_K = negative_K - (5 * chance_V[ids_K]).log()
            costs.append(cost(loss, positive, negative_K, num_items=len(counts_V)))
    assert position == len(vectors_MD)
    return torch.stack(costs).mean()


def cost(loss, positive, negative_K, *, num_items):
    if isinstance(loss, SampledSoftmax):
        return torch.cat([positive.view(1), negative_K]).logsumexp(0) - positive
    beta = 1.0
    if isinstance(loss, GeneralizedBCE):
        alpha = 5 / (num_items - 2)
        beta = alpha * (loss.calibration * (1 - 1 / alpha) + 1 / alpha)
    assert math.isfinite(beta)
    positive, negative_K = positive + math.log(beta / 5), negative_K + math.log(beta / 5)
    return -(beta * positive.sigmoid().log() + (1 - negative_K.sigmoid()).log().sum()) / 6
