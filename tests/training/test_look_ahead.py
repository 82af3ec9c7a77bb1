"""Steps begun while the one before runs give what steps taken one by one give, to the last bit."""

import os
from functools import partial

import pytest
import torch
from gloo import run_processes
from lightning import Callback
from training.runs import Losses, fit_task, saved_tensors, write_inputs

from features.errors import SchemaMismatchError
from models import BERT4Rec, DCNv2, SASRec
from recsys.checkpoint import read_manifest
from recsys.data.module import RecsysData
from recsys.losses import SampledSoftmax
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.tables.early import BegunLookup
from recsys.training.look_ahead import LookAhead
from recsys.training.ranking import RankingTask
from recsys.training.sequence import SequenceTask

# 5 batches an epoch, 3 for sequences: stops in the midst of the first, and at its end.
LAST, STOPS = 7, {1: (3, 5), 2: (3,)}
KINDS = ("ranking", "clustered", "popular", "timed", "softmax")
CLUSTERED = """
tables:
  clusters: {scheme: cce, rows: 40, num_chunks: 2, cluster_every: 2}
"""


def write_files(directory):
    write_inputs(directory)
    text = (directory / "ranking.yaml").read_text()
    text = text.replace("features:\n", CLUSTERED + "features:\n")
    text = text.replace(
        "{name: item_id, kind: categorical}", "{name: item_id, kind: categorical, table: clusters}"
    )
    (directory / "clustered.yaml").write_text(text)
    for kind in ("popular", "softmax"):
        (directory / f"{kind}.yaml").write_text((directory / "sequence.yaml").read_text())
    return directory


def built(kind):
    tables = TablesConfig(dense_max_bytes=0, optimizer=FusedOptimizer(name="adagrad", lr=0.05))
    adam = partial(torch.optim.Adam, lr=0.01)
    if kind in ("ranking", "clustered"):
        ranker = partial(DCNv2, num_cross_layers=1, mlp=(16,), dropout=0.1)
        return RankingTask(ranker=ranker, optimizer=adam, tables=tables)
    encoder = partial(BERT4Rec if kind == "timed" else SASRec, dropout=0.1)
    if kind == "softmax":
        return SequenceTask(encoder=encoder, optimizer=adam, ks=(5,))
    drawn_from = "popularity" if kind == "popular" else "uniform"
    loss = SampledSoftmax(num_negatives=4, negatives_from=drawn_from)
    return SequenceTask(
        encoder=encoder,
        loss=loss,
        optimizer=adam,
        tables=tables,
        ks=(5,),
        shuffle_ties=kind == "timed",
    )


def data_of(directory, kind):
    is_ranked = kind in ("ranking", "clustered")
    return RecsysData(
        features=str(directory / f"{kind}.yaml"),
        data_dir=str(directory / "data"),
        batch_size=64 if is_ranked else 16,
        task="ranking" if is_ranked else "sequence",
        store=str(directory / "store"),
    )


class TakenUp(Callback):
    """Keeps what was begun of each step before it: whether rows were sent, and whose were found."""

    def __init__(self):
        self.begun = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.begun is None:
            self.begun.append(None)
            return
        of_batch, begun = pl_module.begun
        assert of_batch is batch
        lookup = begun if isinstance(begun, BegunLookup) else begun.begun
        self.begun.append((bool(lookup.sent), list(lookup.rows)))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert pl_module.begun is None  # it was taken up


def train(rank, world_size, directory, jobs):
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    found = {}
    for kind, name, arguments in jobs:
        losses, taken = Losses(), TakenUp()
        data = data_of(directory, kind)
        fit_task(
            directory,
            built(kind),
            data,
            name,
            world_size=world_size,
            callbacks=[losses, taken],
            val_check_interval=2,
            **arguments,
        )
        found[name] = losses.values, taken.begun
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Losses and begun steps by name, of runs on one process and two."""
    directory = write_files(tmp_path_factory.mktemp("look_ahead"))
    found = {}
    for world_size, stops in STOPS.items():
        jobs = [
            (kind, f"{kind}-{looks_ahead}-{world_size}", {"looks_ahead": looks_ahead, **WHOLE})
            for kind in KINDS
            for looks_ahead in (False, True)
            if world_size == 1 or kind in ("ranking", "popular")
        ]
        jobs += [
            ("ranking", f"stopped-{stop}-{world_size}", {"looks_ahead": True, "max_steps": stop})
            for stop in stops
        ]
        jobs += [
            (
                "ranking",
                f"resumed-{stop}-{world_size}",
                {"looks_ahead": True, "resume": f"stopped-{stop}-{world_size}", **WHOLE},
            )
            for stop in stops
        ]
        if world_size == 1:
            jobs.append(("ranking", "ranking-None-1", {"max_steps": 2}))
        found |= run_processes(world_size, train, directory, directory, jobs)
    return directory, found


WHOLE = {"max_steps": LAST}


@pytest.mark.parametrize(
    ("kind", "world_size"), [*((kind, 1) for kind in KINDS), ("ranking", 2), ("popular", 2)]
)
def test_a_look_ahead_changes_nothing(runs, kind, world_size):
    directory, found = runs
    names = [f"{kind}-{looks_ahead}-{world_size}" for looks_ahead in (False, True)]
    assert found[names[0]][0] == found[names[1]][0]
    assert len(found[names[0]][0]) == LAST
    assert_same(directory, *names)


@pytest.mark.parametrize(
    ("stop", "world_size"), [(stop, size) for size, stops in STOPS.items() for stop in stops]
)
def test_a_resumed_run_reads_no_batch_twice_and_leaves_none_out(runs, stop, world_size):
    directory, found = runs
    whole, resumed = f"ranking-False-{world_size}", f"resumed-{stop}-{world_size}"
    assert found[resumed][0] == found[whole][0][stop:]
    assert_same(directory, whole, resumed)
    stopped = directory / "checkpoints" / f"stopped-{stop}-{world_size}.ckpt"
    assert read_manifest(stopped).step == stop


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_begun_but_for_rows_that_training_moves(runs, kind):
    _, found = runs
    begun = found[f"{kind}-True-1"][1]
    assert len(begun) == LAST
    assert all(begun)
    for sent, lookups in begun:
        assert sent == (kind not in ("clustered", "softmax"))
        assert any("item_id" in name for name in lookups) == (kind != "clustered")
        assert lookups


def test_on_a_cpu_nothing_is_begun_unless_asked_for(runs):
    _, found = runs
    assert found["ranking-None-1"][1] == [None] * 2


class Steps:
    """Stands for a task: says what is begun when."""

    def __init__(self, said):
        self.global_step, self.begun, self.said = 7, None, said

    def begin_step(self, batch, *, step):
        self.said.append(f"begin {batch} of step {step}")
        return Begun(batch, self.said)


class Begun:
    def __init__(self, batch, said):
        self.batch, self.said = batch, said

    def send(self):
        self.said.append(f"send {self.batch}")

    def arrive(self):
        self.said.append(f"arrive {self.batch}")


def test_the_next_step_begins_before_one_is_taken_and_is_sent_within_it():
    said = []
    steps = Steps(said)
    ahead = LookAhead(steps, device=torch.device("cpu"), to_device=lambda batch: batch)
    for batch in ahead("ab"):
        assert steps.begun[0] == batch
        said.append(f"step {batch}")
        ahead.send()
        steps.global_step += 1
    assert said == [
        *("begin a of step 7", "arrive a", "begin b of step 8", "step a", "send b"),
        *("arrive b", "step b"),
    ]
    assert steps.begun is None


def test_dropping_the_batches_drops_what_was_begun():
    steps = Steps([])
    ahead = LookAhead(steps, device=torch.device("cpu"), to_device=lambda batch: batch)
    batches = ahead("abc")
    next(batches)
    batches.close()
    assert steps.begun is None
    ahead.send()
    assert "send b" not in steps.said


def test_a_wrong_batch_ends_the_training_with_its_message(tmp_path):
    def looked_at(batch):
        if batch == "b":
            raise SchemaMismatchError("features.b: wrong")
        return batch

    ahead = LookAhead(Steps([]), device=torch.device("cpu"), to_device=looked_at)
    with pytest.raises(SchemaMismatchError, match=r"features\.b: wrong"):
        list(ahead("ab"))


def assert_same(directory, one, other):
    expected, found = saved_tensors(directory, one), saved_tensors(directory, other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
