"""Sequence tasks without a trainer: evaluation, the order of ties, what encoders are built for."""

import math
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from migration.made import schema
from training.runs import data_module, write_inputs

from features.errors import FeatureConfigError, RunConfigError
from models import HSTU, BERT4Rec, ESASRec, GSASRec, HistoryRanker, SASRec
from recsys.losses import BinaryCrossEntropy, FullSoftmax, GeneralizedBCE, SampledSoftmax
from recsys.nn.event_ids import EventIds
from recsys.nn.tokens import Tokens
from recsys.tables import embedder
from recsys.tables.config import TablesConfig
from recsys.training import sequence
from recsys.training.masks import token_chances
from recsys.training.ranking import RankingTask
from recsys.training.sequence import SequenceTask

KS = (1, 4)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("sequence"))


def built_task(data, encoder=SASRec, *, dense_max_bytes=10**9, **settings):
    """A task whose tables, replicated or of the collections, are whole."""
    tables = TablesConfig(dense_max_bytes=dense_max_bytes)
    task = SequenceTask(encoder=partial(encoder, dropout=0.0), tables=tables, ks=KS, **settings)
    task.build(data.schema)
    task.embedder.materialize()
    return task


# -------------------------------------------------------------------------------- evaluation
def metrics_by_hand(batches, scores):
    """Hits and gains of the real rows, one after the other."""
    totals, count = Counter(), 0
    for batch, scores_BV in zip(batches, scores, strict=True):
        seen = batch.seen_values.split(batch.seen_lengths_B.tolist())
        for b in (batch.weights_B > 0).nonzero().flatten().tolist():
            target, row = int(batch.targets_B[b]), scores_BV[b].tolist()
            left_out = {0, *seen[b].tolist()} - {target}
            better = [i for i, s in enumerate(row) if i not in left_out and s > row[target]]
            count += 1
            for k in KS:
                if target and len(better) < k:
                    totals[f"hr@{k}"] += 1
                    totals[f"ndcg@{k}"] += 1 / math.log2(len(better) + 2)
    return {name: total / count for name, total in totals.items()} | {"num_examples": count}


@pytest.mark.parametrize("features", ["sequence", "timed"])
@pytest.mark.parametrize("output", ["tied", "separate"])
@pytest.mark.parametrize("encoder", [SASRec, BERT4Rec])
def test_evaluation_however_the_items_are_stored(directory, monkeypatch, encoder, output, features):
    data = data_module(directory, features, batch_size=16)
    batches = list(data.val_dataloader())
    expected, scores = None, None
    # Parts of 7 items or 90 scores cut 30 items, and batches of 16 rows, more than once.
    for dense_max_bytes, part, most in (
        (10**9, 1 << 16, 1 << 26),
        (10**9, 1 << 16, 90),
        (0, 1 << 16, 1 << 26),
        (0, 7, 1),
    ):
        monkeypatch.setattr(embedder, "_CATALOGUE_PART", part)
        monkeypatch.setattr(sequence, "_MAX_SCORES", most)
        task = built_task(data, encoder, dense_max_bytes=dense_max_bytes, item_output=output)
        task.eval()
        with torch.no_grad():
            found = [task(batch) for batch in batches]
        if expected is None:
            scores, expected = found, metrics_by_hand(batches, found)
            assert 0 < expected["ndcg@4"] < 1
            assert expected["num_examples"] > 20
        for one, other in zip(found, scores, strict=True):
            torch.testing.assert_close(one, other)
        for start in (task.on_validation_epoch_start, lambda: None):  # the second begins anew
            start()
            with torch.no_grad():
                for batch in batches:
                    task.collect(batch, split="val")
            metrics = {name: float(v) for name, v in task.compute(split="val").items()}
            assert {n: metrics[n] for n in expected} == pytest.approx(expected)
            assert 0 < metrics["coverage@1"] <= metrics["coverage@4"] <= 1


# -------------------------------------------------------------------------------------- ties
PAIRS = st.lists(st.integers(0, 3), max_size=7)


@given(st.lists(PAIRS, min_size=1, max_size=5), st.integers(0, 9))
def test_only_events_of_one_second_change_places_and_columns_stay_aligned(times, salt):
    times = [sorted(each) for each in times]
    lengths_B = torch.tensor([len(each) for each in times])
    num_tokens = int(lengths_B.sum())
    event_L = torch.arange(num_tokens)
    times_L = torch.tensor([t for each in times for t in each], dtype=torch.int64)
    counts_L = event_L % 3  # of the event's own number
    lists = EventIds(event_L.repeat_interleave(counts_L), counts_L)
    ids = {"item": EventIds(event_L), "side": EventIds(event_L + 100), "list": lists}
    tokens = Tokens(ids, lengths_B, times_L, lengths_B)
    _, chance_L = token_chances(torch.arange(len(times)), lengths_B, salt=salt)
    shuffled = tokens.with_ties_shuffled(chance_L)
    assert torch.equal(shuffled.ids["side"].values, shuffled.items_L + 100)
    lists = shuffled.ids["list"]
    assert torch.equal(lists.counts_L, shuffled.items_L % 3)
    assert torch.equal(lists.values, shuffled.items_L.repeat_interleave(lists.counts_L))
    assert shuffled.lengths_B is lengths_B
    assert torch.equal(shuffled.times_L, times_L)
    assert shuffled.items_L.sort().values.tolist() == event_L.tolist()
    owner_L = torch.arange(len(times)).repeat_interleave(lengths_B)
    assert torch.equal(owner_L[shuffled.items_L], owner_L)
    assert torch.equal(times_L[shuffled.items_L], times_L)


def test_all_orders_of_ties_are_equally_likely():
    lengths_B = torch.full((6000,), 3)
    tokens = Tokens(
        {"item": EventIds(torch.arange(3).repeat(6000))}, lengths_B, torch.zeros(18000), lengths_B
    )
    _, chance_L = token_chances(torch.arange(6000), lengths_B, salt=5)
    orders = Counter(map(tuple, tokens.with_ties_shuffled(chance_L).items_L.view(-1, 3).tolist()))
    assert len(orders) == 6
    assert all(count == pytest.approx(1000, abs=150) for count in orders.values())


def looked_up(task, batch, *, step):
    """The ids of one training step: of the histories, and in one more example of candidates."""
    look_up, asked = task.embedder.sequences, []
    task.embedder.sequences = lambda keyed: asked.append(keyed) or look_up(keyed)
    task.trainer = SimpleNamespace(
        world_size=1, global_step=step, log_every_n_steps=10**9, is_last_batch=False
    )
    task.training_step(batch, 0)
    task.embedder.sequences = look_up
    [keyed] = asked
    return keyed


def events_read(task, batches, *, step):
    """The (item, device, tags) of the histories of a training step, by user."""
    read = {}
    for batch in batches:
        keyed = looked_up(task, batch, step=step)
        items, devices = (keyed[f"history.{key}"].to_dense() for key in ("item_id", "device"))
        counts = keyed["history.tags.@count"]
        tags = iter(keyed["history.tags"].values().split(counts.values().tolist()))
        rows = zip(batch.users_B.tolist(), items, devices, batch.weights_B.tolist(), strict=False)
        for user, items_L, devices_L, weight in rows:
            tags_L = [tuple(next(tags).tolist()) for _ in items_L]
            if weight:
                read[user] = list(zip(items_L.tolist(), devices_L.tolist(), tags_L, strict=True))
    return read


@pytest.mark.parametrize("loss", [None, SampledSoftmax(num_negatives=3)])
def test_ties_come_in_another_order_each_step_whatever_the_number_of_ranks(directory, loss):
    data = data_module(directory, "timed", batch_size=16)
    batches = list(data.train_dataloader())
    plain = built_task(data, BERT4Rec, loss=loss, last_only_share=1.0)
    stored = events_read(plain, batches, step=0)
    assert stored == events_read(plain, batches, step=1)
    task = built_task(data, BERT4Rec, loss=loss, last_only_share=1.0, shuffle_ties=True)
    steps = [events_read(task, batches, step=step) for step in (0, 1)]
    assert steps[0] != steps[1]
    tags_of_items = {item: tags for pairs in stored.values() for item, _, tags in pairs}
    assert {len(tags) for tags in tags_of_items.values()} >= {0, 1, 2}
    times = {}
    for batch in batches:
        seconds = [s[:-1].tolist() for s in batch.sequences["history.@time"].to_dense()]
        times |= zip(batch.users_B.tolist(), seconds, strict=True)
    moved = 0
    for read in steps:
        assert read.keys() == stored.keys()
        for user, pairs in read.items():
            assert {pair[0]: pair[2] for pair in pairs}.items() <= tags_of_items.items()
            # Of a history that is longer than the model reads, the events of the first second may
            # be exchanged for another of that second.
            of_user = times[user][-len(pairs) :]
            is_cut = len(times[user]) > len(pairs) and times[user][0] == of_user[0]
            for time in set(of_user) - ({of_user[0]} if is_cut else set()):
                here = [p for p, t in zip(pairs, of_user, strict=True) if t == time]
                before = [p for p, t in zip(stored[user], of_user, strict=True) if t == time]
                assert Counter(here) == Counter(before)
                moved += here != before
    assert moved > 5
    for rank in (0, 1):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, current_epoch=0)
        of_rank = events_read(task, list(data.train_dataloader()), step=1)
        assert 0 < len(of_rank) < len(stored)
        assert of_rank == {user: steps[1][user] for user in of_rank}


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_masked_event_hides_its_list(directory, share):
    data = data_module(directory, "timed", batch_size=16)
    loss = SampledSoftmax(num_negatives=3)
    task = built_task(data, BERT4Rec, loss=loss, mask_share=share, last_only_share=0.0)
    task.trainer = SimpleNamespace(
        world_size=1, global_step=0, log_every_n_steps=10**9, is_last_batch=False
    )
    task.training_step(next(iter(data.train_dataloader())), 0).backward()
    gradient = task.embedder.replicated.weights["tags"].grad
    assert bool(gradient.any()) == (share < 1)


@pytest.mark.parametrize("encoder", [SASRec, BERT4Rec])
def test_every_step_has_other_negatives_and_masks_in_the_same_lookup(directory, encoder):
    data = data_module(directory, "sequence", batch_size=16)
    task = built_task(data, encoder, loss=SampledSoftmax(num_negatives=4), mask_share=0.5)
    batch = next(iter(data.train_dataloader()))

    def candidates(step):
        *_, ids = looked_up(task, batch, step=step)["history.item_id"].to_dense()
        return ids[: -4 * len(batch)].tolist(), ids[-4 * len(batch) :].tolist()

    (targets, negatives), (other_targets, other_negatives) = candidates(0), candidates(1)
    assert candidates(0) == (targets, negatives)
    assert all(1 <= item < task.num_items for item in negatives)
    assert negatives != other_negatives
    histories = batch.sequences["history.item_id"].to_dense()
    weights = batch.weights_B.tolist()
    following = [
        i * int(w) for h, w in zip(histories, weights, strict=True) for i in h[1:].tolist()
    ]
    assert (targets == following) == (encoder is SASRec)
    assert (targets == other_targets) == (encoder is SASRec)


# ------------------------------------------------------------------------------------- build
def test_lists_of_events_are_pooled_as_their_feature_says(directory):
    readers = built_task(data_module(directory, "timed")).embedder.readers
    found = {key: (reader.pooling, reader.event_pooling) for key, reader in readers.items()}
    assert found == {
        "device": ("mean", "none"),
        "item_id": ("mean", "none"),
        "tags": ("sum", "none"),
        "history.device": ("none", "none"),
        "history.item_id": ("none", "none"),
        "history.tags": ("none", "sum"),
    }


def test_the_encoder_is_built_for_items_first_and_times_but_not_for_the_output(directory):
    layouts = []

    def encoder(layout):
        layouts.append(layout)
        return SASRec(layout)

    for features in ("timed", "sequence"):
        task = SequenceTask(encoder=encoder, item_output="separate", ks=KS)
        task.build(data_module(directory, features).schema)
    timed, plain = layouts
    assert timed.sequences == {"history.item_id": 8, "history.device": 4, "history.tags": 4}
    assert list(timed.sequences) == ["history.item_id", "history.device", "history.tags"]
    assert timed.has_times
    assert plain.sequences == {"history.item_id": 8}
    assert not plain.has_times


def test_the_loss_is_the_encoders_own_unless_the_run_says_another(directory):
    data = data_module(directory, "sequence")
    assert isinstance(built_task(data, SASRec).loss, FullSoftmax)
    assert isinstance(built_task(data, GSASRec).loss, GeneralizedBCE)
    loss = SampledSoftmax()
    assert built_task(data, GSASRec, loss=loss).loss is loss


# --------------------------------------------------------------------------------- precision
LOSSES = {
    "full": FullSoftmax,
    "softmax": lambda: SampledSoftmax(num_negatives=5, log_q=True),
    "bce": lambda: BinaryCrossEntropy(num_negatives=2),
    "gbce": lambda: GeneralizedBCE(num_negatives=5),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("encoder", [SASRec, ESASRec, BERT4Rec, HSTU])
def test_a_step_under_bf16_autocast_is_the_full_precision_one_rounded(directory, encoder, loss):
    data = data_module(directory, "timed", batch_size=16)
    batch = next(iter(data.train_dataloader()))

    def gradients(dtype):
        task = built_task(data, encoder, loss=LOSSES[loss]())
        task.trainer = SimpleNamespace(
            world_size=1, global_step=0, log_every_n_steps=10**9, is_last_batch=False
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = task.training_step(batch, 0)
        value.backward()
        found = {n: p.grad for n, p in task.named_parameters() if p.grad is not None}
        return value.detach(), torch.cat([grad.flatten() for grad in found.values()])

    (value, exact), (rounded_value, rounded) = gradients(torch.float32), gradients(torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded_value, value, rtol=0.02, atol=0)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.99


# ------------------------------------------------------------------------------- short vectors
@pytest.mark.parametrize(
    "loss", [FullSoftmax(), SampledSoftmax(num_negatives=5, negatives_per="batch")]
)
@pytest.mark.parametrize("encoder", [SASRec, BERT4Rec])
def test_the_loss_of_prefixes_is_the_sum_of_those_at_each_width(directory, encoder, loss):
    data = data_module(directory, "sequence", batch_size=16)
    batch = next(iter(data.train_dataloader()))

    def loss_of(**settings):
        task = built_task(data, encoder, loss=loss, **settings)
        task.trainer = SimpleNamespace(world_size=1, global_step=0)
        task.log_loss = lambda loss, num_examples: None
        return task, task.training_step(batch, 0).detach()

    task, full = loss_of()
    width = task.widths[-1]
    assert task.widths == (width,)
    _, together = loss_of(prefix_widths=(2, 5))
    alone = []
    for kept in (2, 5, width):
        task, _ = loss_of()
        head = task.encoder.head
        # Numbers of users that are 0 take those of items out of the product.
        task.encoder.head = lambda hidden_MD, head=head, kept=kept: torch.nn.functional.pad(
            head(hidden_MD)[:, :kept], (0, width - kept)
        )
        alone.append(task.training_step(batch, 0).detach())
    assert float(alone[-1]) == float(full)
    assert float(alone[0]) != pytest.approx(float(alone[1]), abs=1e-4)
    assert float(together) == pytest.approx(float(sum(alone)), rel=1e-5)
    _, weighted = loss_of(prefix_widths=(2, 5), prefix_weights=(3.0, 0.5))
    assert float(weighted) == pytest.approx(float(3 * alone[0] + alone[1] / 2 + full), rel=1e-5)


@pytest.mark.parametrize("widths", [(0,), (2, 2), (999,)])
def test_widths_that_are_none(directory, widths):
    data = data_module(directory, "sequence", batch_size=16)
    with pytest.raises(RunConfigError, match=r"model\.prefix_widths: must be different widths"):
        built_task(data, prefix_widths=widths)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, float("nan"))])
def test_weights_that_are_none(directory, weights):
    data = data_module(directory, "sequence", batch_size=16)
    with pytest.raises(RunConfigError, match=r"model\.prefix_weights: must be a number above 0"):
        built_task(data, prefix_widths=(2, 5), prefix_weights=weights)


HISTORY = """
entity: {user: user, item: item, time: day}
tables:
  kinds: {scheme: decoupled, separate_target: true}
features:
  - {name: item, kind: categorical}
  - {name: kind, kind: categorical, table: kinds}
  - {name: past, kind: sequence, of: [item, kind], max_length: 10, where: "click = 1"}
"""


def test_events_that_are_predicted_cannot_be_left_out_by_the_sequence():
    full = HISTORY.replace("decoupled, separate_target: true", "full")
    with pytest.raises(FeatureConfigError) as caught:
        SequenceTask(encoder=SASRec).build(schema(full))
    label, where = caught.value.mistakes
    with pytest.raises(FeatureConfigError, match=r"weight: a sequence task weighs all events"):
        SequenceTask(encoder=SASRec).build(schema(f'{full}weight: "click + 1"\n'))
    assert label.startswith("label: a sequence task predicts every event, whatever its label, got")
    assert "got 'click = 1'; leave events out by sources.events.where" in where


def test_no_event_has_the_row_of_its_target_where_targets_have_their_own():
    task = RankingTask(ranker=partial(HistoryRanker, search="same_value"))
    with pytest.raises(FeatureConfigError, match=r"tables.kinds.separate_target: no event would"):
        task.build(schema(HISTORY))
    task.build(schema(HISTORY.replace("of: [item, kind]", "of: [kind, item]")))
