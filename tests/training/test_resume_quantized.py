"""Runs of tables that are changed after each step, resumed to the last bit.

Quantised ones are saved on the grid; thresholds of others are moved.
"""

import pytest
import torch
from gloo import run_processes
from training.runs import RANKING, STOP, resume_runs, saved_tensors, write_inputs

TABLES = """
tables:
  own: {scheme: quantized}
  one: {scheme: quantized, bits: 16, step: fixed}
  rows: {scheme: optembed, threshold_lr: 0.1, alpha: 0.01}
features:"""
CATEGORICAL = "_id, kind: categorical"
QUANTIZED = RANKING.replace("\nfeatures:", TABLES)
for feature, table in (("user", "own"), ("item", "one")):
    QUANTIZED = QUANTIZED.replace(
        feature + CATEGORICAL, f"{feature}{CATEGORICAL}, table: {table}", 1
    )


@pytest.mark.parametrize(("world_size", "sizes"), [(1, [0, 10**6]), (2, [0])])
def test_a_resumed_run_ends_where_the_uninterrupted_one_ends(world_size, sizes, tmp_path):
    directory = write_inputs(tmp_path)
    (directory / "ranking.yaml").write_text(QUANTIZED)
    of_sizes = run_processes(world_size, resume_runs, directory, directory, sizes)
    for losses, size in zip(of_sizes, sizes, strict=True):
        assert losses["resumed"] == losses["whole"][STOP:]
        whole, stopped, resumed = (saved_tensors(directory, f"{name}-{size}") for name in losses)
        assert whole.keys() == resumed.keys()
        for name, tensor in whole.items():
            assert torch.equal(resumed[name], tensor), name
        for tensors in (whole, stopped):
            assert_on_grid(tensors)
        before, after = (
            found["model.embedder.schemes.rows.thresholds_F"] for found in (stopped, whole)
        )
        assert (after != before).all()
        assert (before != 0).all()


def assert_on_grid(tensors):
    of_model = [name for name in tensors if name.startswith("model.")]
    found = {name.removesuffix(".weight").rpartition(".")[2]: name for name in of_model}
    found = {table: tensors[found[table]] for table in ("own", "one")}
    steps_V1 = found["own"][:, 8:9]
    assert (steps_V1 != 0.01).any()
    for rows, steps in ((found["own"], steps_V1), (found["one"], 0.01)):
        values = rows[:, :8]
        assert torch.equal((values / steps).round() * steps, values)
