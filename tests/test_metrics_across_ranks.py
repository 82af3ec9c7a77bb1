"""Metrics of a batch per rank, joined, against those of all batches on one."""

import pytest
import torch
from gloo import WORLD_SIZES, run_processes

from recsys.metrics import CatalogueMetrics, RankingMetrics

SIZES = [40, 30, 0, 7]


def measure(rank, world_size):
    ranking, catalogue = RankingMetrics(), CatalogueMetrics(ks=(2,), num_items=9)
    for batch in range(rank, len(SIZES), world_size):
        torch.manual_seed(batch)
        size = SIZES[batch]
        labels_B, users_B = torch.randint(0, 2, (size,)), torch.randint(0, 3, (size,))
        ranking.update(torch.randn(size), labels_B, torch.ones(size), users_B)
        catalogue.update(torch.randint(-1, 9, (size,)), torch.randint(1, 4 + batch, (size, 2)))
    values = ranking.compute() | catalogue.compute()
    return {name: value.item() for name, value in values.items()}


@pytest.mark.parametrize("world_size", WORLD_SIZES[1:])
def test_ranks_add_up(world_size, tmp_path):
    alone = measure(0, 1)
    assert alone["num_examples"] == 77
    assert run_processes(world_size, measure, tmp_path) == pytest.approx(alone, rel=1e-7)
