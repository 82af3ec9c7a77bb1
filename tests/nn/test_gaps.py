import itertools
import math

import pytest
import torch

from recsys.nn.gaps import NUM_GAPS, GapEmbedding, gap_steps
from recsys.types import History

DAY = 86_400


@pytest.mark.parametrize(
    ("seconds", "step"),
    [(0, 0), (1, 0), (2, 2), (60, 13), (DAY, 37), (365 * DAY, 57), (2**62, NUM_GAPS)],
)
def test_steps_of_time(seconds, step):
    assert gap_steps(torch.tensor([seconds, -seconds])).tolist() == [step, step]


def test_a_step_is_a_third_longer():
    seconds = torch.logspace(0, 12, 500).long()
    steps = gap_steps(seconds)
    assert (steps.diff() >= 0).all()
    assert steps.tolist() == [int(math.log(s) / 0.301) for s in seconds.tolist()]


def test_vectors_for_the_gap_before_and_until():
    torch.manual_seed(0)
    times, asked = [[5, 65, 65], [], [3 * DAY]], [[65, 65, DAY + 65], [], [3 * DAY - 2]]
    gaps = GapEmbedding(4)
    history = History(
        torch.zeros(4, 4),
        torch.tensor([3, 0, 1]),
        times_L=torch.tensor([*itertools.chain(*times)]),
        asked_at_L=torch.tensor([*itertools.chain(*asked)]),
    )
    before, until = gaps.before.weight, gaps.until.weight
    steps = [(0, 13), (13, 0), (0, 37), (0, 2)]
    expected = torch.stack([before[b] + until[u] for b, u in steps])
    torch.testing.assert_close(gaps(history), expected)
