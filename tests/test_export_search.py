"""The search of a trained ranker by itself finds what the ranker finds."""

import re

import pytest
import torch
from bundles import data_module, task_of, train
from commands import recsys_command
from hypothesis import given
from hypothesis import strategies as st
from modes import as_any_new_file

from features.errors import SchemaMismatchError
from recsys.export_search import history_index
from recsys.history_index import HistoryIndex, Vectors

FEATURES = """
sources:
  events: events.parquet
  items: {path: items.parquet, on: item_id}
entity: {user: user_id, item: item_id, time: timestamp}
label: {name: click}
split: {kind: temporal, fractions: [0.6, 0.2, 0.2]}
defaults: {dim: 8}
tables:
  goods: {scheme: decoupled, attention: {dim: 4}, representation: {scheme: quantized}}
  kinds: {scheme: decoupled, attention: {scheme: hash, rows: 7}, separate_target: true}
features:
  - {name: item_id, kind: categorical, table: goods}
  - {name: category, kind: categorical, table: kinds}
  - {name: seen, kind: sequence, of: [item_id, category], max_length: 30}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("search"), ["DARE", "DIN"], features=FEATURES)


def of_columns(keyed, names):
    by_key = keyed.to_dict()
    return {name.rpartition(".")[2]: by_key[name] for name in names}


def test_it_finds_what_the_ranker_finds(trained, tmp_path, capsys):
    run, out = trained / "runs" / "DARE", tmp_path / "out"
    assert recsys_command("export-search", run, "--out", out, "--dtype", "fp32") == 0
    index, schema = HistoryIndex.load(out)
    task = task_of(trained, "DARE")
    assert schema.fingerprint() == task.schema.fingerprint()
    assert index.events["item_id"] is index.targets["item_id"]
    assert not torch.equal(index.events["category"].values_VD, index.targets["category"].values_VD)
    found_any = 0
    for batch in data_module(trained, "ranking").test_dataloader():
        past = of_columns(batch.sequences, ["seen.item_id", "seen.category"])
        found = index.search(
            {name: ids.values() for name, ids in of_columns(batch.ids, index.events).items()},
            {name: ids.values() for name, ids in past.items()},
            past["item_id"].lengths(),
            k=3,
        )
        task.ranker.top_k = 3
        with torch.no_grad():
            expected = task.ranker.kept(task.embedder(batch))
        assert torch.equal(found.is_event_BK, expected.is_event_BK)
        there = found.is_event_BK
        assert torch.equal(found.token_BK[there], expected.token_BK[there])
        found_any += int(there.sum())
    assert found_any > 100
    assert "recall" not in capsys.readouterr().out


def test_codes_of_8_bits_and_their_recall(trained, tmp_path, capsys):
    run, out = trained / "runs" / "DARE", tmp_path / "out"
    assert recsys_command("export-search", run, "--out", out) == 0
    said = capsys.readouterr().out
    assert re.search(r"recall@20 of int8 against fp32: (0\.9\d+|1\.0000), on \d+ validation", said)
    small, _ = HistoryIndex.load(out)
    exact = history_index(task_of(trained, "DARE"))
    for name, vectors in exact.events.items():
        codes = small.events[name]
        assert codes.values_VD.dtype == torch.int8
        every_id = torch.arange(len(codes.values_VD))
        error = (codes.take(every_id) - vectors.values_VD).abs()
        assert (error <= vectors.values_VD.abs().amax(1, keepdim=True) / 254 + 1e-7).all()
    assert small.num_bytes < exact.num_bytes
    assert all(as_any_new_file(f) for f in out.rglob("*") if f.is_file())
    (out / "search.safetensors").write_bytes(b"")
    with pytest.raises(SchemaMismatchError, match="not the file that was exported"):
        HistoryIndex.load(out)


def test_mistakes(trained, tmp_path, capsys):
    run, out = trained / "runs" / "DIN", tmp_path / "out"
    assert recsys_command("export-search", run, "--out", out) == 2
    assert "does not search histories by dot products, got DIN; allowed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(SchemaMismatchError, match="is no search of histories, got keys none"):
        HistoryIndex.load(tmp_path)
    index = HistoryIndex("seen", *[{"item": Vectors(torch.zeros(4, 2))}] * 2, torch.zeros(3), 1)
    with pytest.raises(SchemaMismatchError) as caught:
        index.search(
            {"item": torch.tensor([4])}, {"item": torch.tensor([-1] * 3)}, torch.tensor([3])
        )
    assert [m.partition(":")[0] for m in caught.value.mistakes] == ["seen", *["features.item"] * 2]


def ids(*values):
    return {"item": torch.tensor(values)}


@pytest.mark.parametrize(
    ("targets", "lengths", "k", "says"),
    [
        ([1, 2], [3, 5], 1, "events do not fit the histories, got 5 ids; the lengths of 2 .* 8"),
        ([1, 2], [3, 1], 1, "events do not fit"),
        ([1], [3, 2], 1, "targets do not fit the histories, got 1 ids; .* ask for 2"),
        ([1, 2, 3], [3, 2], 1, "targets do not fit"),
        ([1, 2], [6, -1], 1, "lengths_B: has negative ones, got -1"),
        ([1, 2], [3, 2], 0, "k: is no number of events, got 0; allowed 1 and more"),
    ],
)
def test_ids_that_do_not_fit_the_histories(targets, lengths, k, says):
    index = HistoryIndex("seen", *[{"item": Vectors(torch.zeros(4, 2))}] * 2, torch.zeros(9), 1)
    events, lengths_B = ids(0, 1, 2, 3, 0), torch.tensor(lengths)
    with pytest.raises(SchemaMismatchError, match=says):
        index.search(ids(*targets), events, lengths_B, k=k)


NUMBERS = st.floats(-10, 10, width=32)


@given(st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=1, max_size=5))
def test_codes_are_the_nearest(rows):
    values_VD = torch.tensor(rows)
    codes = Vectors(values_VD).to_int8()
    assert codes.values_VD.abs().max() <= 127
    largest_V = values_VD.abs().amax(1)
    assert (
        (codes.take(torch.arange(len(rows))) - values_VD).abs().amax(1) <= largest_V / 253 + 1e-6
    ).all()
