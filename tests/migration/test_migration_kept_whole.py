"""Schemes that are not rows, other optimisers and places, and a writing that is cut off."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from migration.made import schema, write_made

from features.errors import OutputError
from recsys.checkpoint import DENSE, FUSED, MODEL, read_tensors
from recsys.migration import migration as module
from recsys.migration import run
from recsys.migration.migration import plan_migration
from recsys.migration.stored import StoredTensors
from recsys.tables.initial import initial_rows

TEXT = """
tables: {{t: {spec}}}
features:
  - {{name: {name}, kind: categorical, table: t}}
  - {{name: b, kind: categorical, dim: 8}}
"""
SPEC = "{scheme: qr, rows: 8, dim: 8}"
OTHERS = ["{scheme: multihash, rows: 30, dim: 8, num_hashes: 4}", "{scheme: tt, rows: 40, dim: 8}"]
RENAMED = "new, renamed_from: a, column: a"


def moved(directory, before, after, **options):
    old = write_made(directory / "old.ckpt", before, **options)
    migration = plan_migration(directory / "old.ckpt", after)
    reports = migration.write(directory / "new.ckpt")
    prefixes = (MODEL, FUSED, DENSE)
    path = directory / "new.ckpt"
    new = {p + n: t for p in prefixes for n, t in read_tensors(path, p).items()}
    return old, new, migration, reports


@pytest.mark.parametrize("spec", [SPEC, *OTHERS])
@pytest.mark.parametrize("dense_max_bytes", [0, 10**6])
def test_a_renamed_feature_keeps_all_that_its_scheme_stores(tmp_path, spec, dense_max_bytes):
    before = schema(TEXT.format(spec=spec, name="a"), {"a": "abcdef", "b": "xyz"})
    after = schema(TEXT.format(spec=spec, name=RENAMED), {"new": "abcdef", "b": "xyz"})
    old, new, migration, _ = moved(tmp_path, before, after, dense_max_bytes=dense_max_bytes)
    assert not list(migration.lost())
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        assert torch.equal(new[name], tensor), name


def test_vectors_of_another_scheme_become_rows(tmp_path):
    before = schema(TEXT.format(spec=SPEC, name="a"), {"a": "abcdef", "b": "xyz"})
    after = schema(
        TEXT.format(spec="{scheme: full, dim: 8}", name="a"), {"a": "fedxba", "b": "xyz"}
    )
    old, new, migration, reports = moved(tmp_path, before, after, dense_max_bytes=10**6)
    assert migration.tables[0].way == "unpacked"
    task = migration.tasks[0]
    layers = {n.removeprefix(MODEL): t for n, t in old.items() if n.startswith(MODEL)}
    task.load_state_dict(layers)
    vectors = task.embedder.catalogue("a", num_ids=7)
    rows = new[f"{MODEL}embedder.replicated.weights.t"]
    for now, was in ((0, 0), (1, 6), (2, 5), (3, 4), (5, 2), (6, 1)):  # x is new
        assert torch.equal(rows[now], vectors[was])
    assert reports["t"].counts.initialised == 1
    assert not reports["t"].state


@pytest.mark.parametrize("optimizer", ["adagrad", "rowwise_adagrad", "sgd"])
def test_state_stays_with_its_rows(tmp_path, optimizer):
    text = TEXT.format(spec="{scheme: full, dim: 8}", name="a")
    before = schema(text, {"a": "abcdef", "b": "xyz"})
    after = schema(text.replace("dim: 8}}", "dim: 12}}"), {"a": "cabx", "b": "xyz"})
    old, new, _, _ = moved(tmp_path, before, after, optimizer=optimizer)
    [was] = [t for n, t in old.items() if n.endswith(".t.weight.t.momentum1")] or [None]
    [now] = [t for n, t in new.items() if n.endswith(".t.weight.t.momentum1")] or [None]
    if optimizer == "sgd":
        assert was is None
        assert now is None
        return
    assert was is not None
    assert now is not None
    kept = now[:4] if now.dim() == 1 else now[:4, :8]
    assert torch.equal(kept, was[[0, 3, 1, 2]])
    assert now.dim() == 1 or not now[:, 8:].any()
    assert not now[4].any()


def test_rows_of_16_bits_are_kept_as_they_are(tmp_path):
    text = TEXT.format(spec="{scheme: full, dim: 8}", name="a")
    before = schema(text, {"a": "abcdef", "b": "xyz"})
    after = schema(text, {"a": "cabx", "b": "xyz"})
    old, new, migration, _ = moved(tmp_path, before, after, row_dtype="fp16")
    [was] = [t for n, t in old.items() if n.endswith(".t.weight")]
    [now] = [t for n, t in new.items() if n.endswith(".t.weight")]
    assert was.dtype == now.dtype == torch.float16
    assert torch.equal(now[:4], was[[0, 3, 1, 2]])
    [table] = migration.tables[0].scheme.physical_tables
    assert torch.equal(now[4], initial_rows(table, seed=0).half()[4])
    [state] = [t for n, t in new.items() if n.endswith(".t.weight.t.momentum1")]
    assert state.dtype == torch.float32
    # A table is mapped where it lies, not read whole.
    [name] = [n for n in old if n.endswith(".t.weight")]
    [part] = StoredTensors(tmp_path / "old.ckpt").matrix(name).parts
    assert isinstance(part.values.base, np.memmap)


def test_state_does_not_follow_into_another_optimiser(tmp_path):
    text = TEXT.format(spec="{scheme: full, dim: 8}", name="a")
    before = schema(text, {"a": "abcdefghijklmnop", "b": "xyz"})
    after = schema(text, {"a": "abc", "b": "xyz"})
    _, new, _, reports = moved(tmp_path, before, after, dense_max_bytes=300)
    assert "dense.embedder.replicated.weights.t.exp_avg" not in new
    assert not reports["t"].state
    assert reports["t"].counts.kept == 4


def test_new_fields_of_a_factorisation_machine_start_at_zero(tmp_path):
    text = TEXT.format(spec="{scheme: full, dim: 8}", name="a")
    before = schema(text, {"a": "abc", "b": "xyz"})
    after = schema(text + "  - {name: c, kind: categorical, dim: 8}\n", {"a": "abcd", "b": "xyz"})
    _, new, _, _ = moved(tmp_path, before, after, ranker="FM", settings={"first_order": True})
    [rows] = [t for n, t in new.items() if n.endswith(".c.weight")]
    assert not rows.any()
    [grown] = [t for n, t in new.items() if n.endswith(".t.weight")]
    assert grown[4].any()


def test_a_writing_that_is_cut_off_leaves_nothing(tmp_path, monkeypatch):
    text = TEXT.format(spec="{scheme: full, dim: 8}", name="a")
    before = schema(text, {"a": "abc", "b": "xyz"})
    write_made(tmp_path / "old.ckpt", before)
    migration = plan_migration(tmp_path / "old.ckpt", replace(before))

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "write", full)
    with pytest.raises(OutputError, match="/new: cannot be written, got no space"):
        run.write_run(migration, tmp_path / "new", features={}, more={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.ckpt"]
