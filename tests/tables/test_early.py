"""What may be looked up before a step has ended: rows that training does not move."""

import pytest
import torch
from tables.conftest import SPECS, WARM_UPS, reader, with_plan
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.tables.after_steps import after_steps, before_views
from recsys.tables.config import TablesConfig
from recsys.tables.early import record_stream
from recsys.tables.embedder import Embedder
from recsys.tables.logical import LogicalTable
from recsys.types import Batch

ALL = SPECS | WARM_UPS
NONE = torch.zeros(0)
# 5 steps: `cluster_every` of the clustered ones is 2.
STEPS = 5


def embedder_of(name):
    spec = ALL[name]
    readers = (reader("a", 0, num_ids=30), reader("b", 1, num_ids=20))
    table = with_plan(LogicalTable("table", getattr(spec, "dim", None) or 4, spec, readers))
    return Embedder([table], config=TablesConfig(dense_max_bytes=10**9))


def batch_of_all():
    ids = [torch.arange(30), torch.arange(30) % 20]
    return Batch(
        ids=KeyedJaggedTensor(
            keys=["a", "b"], values=torch.cat(ids), lengths=torch.ones(60, dtype=torch.int64)
        ),
        sequences=None,
        dense_BN=torch.zeros(30, 0),
        labels_BT=torch.zeros(30, 1),
        weights_B=torch.ones(30),
        users_B=torch.arange(30),
        targets_B=NONE,
        seen_values=NONE,
        seen_lengths_B=NONE,
    )


def train(embedder, batch):
    """Steps with all that schemes do after them."""
    embedder.train()
    updated = {id(p) for p in embedder.updated_by_schemes()}
    dense = [p for p in embedder.parameters() if id(p) not in updated]
    optimizer = torch.optim.Adagrad(dense, lr=0.5) if dense else None
    hooks, views = after_steps(embedder), before_views(embedder)
    for step in range(STEPS):
        fields = embedder(batch).fields
        loss = sum((vector - 1).square().sum() for vector in fields.values())
        penalty = embedder.penalty()
        (loss if penalty is None else loss + penalty).backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        for hook in hooks:
            hook(step)
    for view in views:
        view(STEPS)


@pytest.mark.parametrize("name", ALL)
def test_a_scheme_says_whether_training_moves_its_rows(name):
    embedder, batch = embedder_of(name), batch_of_all()
    [scheme] = embedder.schemes.values()
    ids = {"a": torch.arange(30), "b": torch.arange(20)}
    before = scheme.remap(ids)
    train(embedder, batch)
    after = scheme.remap(ids)
    stayed = all(torch.equal(rows, after[lookup]) for lookup, rows in before.items())
    assert stayed == scheme.remap_is_fixed


@pytest.mark.parametrize("name", ALL)
def test_a_look_up_begun_before_a_step_gives_what_one_after_it_gives(name):
    embedder, batch = embedder_of(name), batch_of_all()
    begun = embedder.begin(batch)
    train(embedder, batch)
    embedder.eval()
    begun.send()
    begun.arrive()
    expected, found = embedder(batch).fields, embedder(batch, begun=begun).fields
    assert expected.keys() == found.keys()
    for key, vectors in expected.items():
        torch.testing.assert_close(found[key], vectors, atol=0, rtol=0)


class Stream:
    """Stands for a stream: no GPU is at hand."""


class Recorded:
    def __init__(self):
        self.streams = []

    def record_stream(self, stream):
        self.streams.append(stream)


def test_all_that_was_begun_is_kept_for_the_stream_that_trains(monkeypatch):
    kept = []
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: kept.append(tensor.data_ptr())
    )
    embedder = embedder_of("full")
    begun, sent = embedder.begin(batch_of_all()), Recorded()
    stream = Stream()
    begun.sent["pooled"] = sent
    begun.record_stream(stream)
    assert sent.streams == [stream]
    ids = [tensor for ids in begun.ids.values() for tensor in (ids.values_L, ids.lengths_B)]
    rows = [tensor for rows in begun.rows.values() for tensor in (rows.values_L, rows.lengths_B)]
    assert {tensor.data_ptr() for tensor in (*ids, *rows)} <= set(kept)
    kept.clear()
    record_stream((None, 3, "text", {"key": (torch.ones(1),)}), stream)
    assert len(kept) == 1
