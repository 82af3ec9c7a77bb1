"""Runs of tables that are clustered in training: resumed to the last bit."""

import pytest
import torch
from gloo import run_processes
from training.runs import RANKING, STOP, resume_runs, saved_tensors, write_inputs

TABLES = """
tables:
  clusters: {scheme: cce, rows: 20, num_chunks: 2, cluster_every: 2, num_clusterings: 2}
features:"""
CLUSTERED = RANKING.replace("\nfeatures:", TABLES)
for feature in ("user", "item"):
    CLUSTERED = CLUSTERED.replace(
        f"{feature}_id, kind: categorical", f"{feature}_id, kind: categorical, table: clusters", 1
    )


@pytest.mark.parametrize(("world_size", "sizes"), [(1, [0, 10**6]), (2, [0])])
def test_a_resumed_run_ends_where_the_uninterrupted_one_ends(world_size, sizes, tmp_path):
    directory = write_inputs(tmp_path)
    (directory / "ranking.yaml").write_text(CLUSTERED)
    of_sizes = run_processes(world_size, resume_runs, directory, directory, sizes)
    for losses, size in zip(of_sizes, sizes, strict=True):
        assert losses["resumed"] == losses["whole"][STOP:]
        whole, stopped, resumed = (saved_tensors(directory, f"{name}-{size}") for name in losses)
        assert whole.keys() == resumed.keys()
        for name, tensor in whole.items():
            assert torch.equal(resumed[name], tensor), name
        counts = [
            int(next(t for n, t in tensors.items() if n.endswith("num_clusterings")))
            for tensors in (stopped, whole)
        ]
        assert counts == [1, 2]
