"""Events of histories, at their edges."""

import pytest
import torch

from recsys.nn.events import Events


@pytest.mark.parametrize("histories_B", [None, torch.tensor([0, 0, 1])])
@pytest.mark.parametrize("read", ["dot", "pool"])
def test_tables_that_no_event_reads_stay_part_of_the_graph(read, histories_B):
    """Else a rank without a history would make no gradient that the others wait for."""
    lengths_B = torch.zeros(3, dtype=torch.int64)
    events = Events.all_of(lengths_B, max_length=4, histories_B=histories_B)
    packed_LD = torch.zeros(0, 5, requires_grad=True)
    beside = torch.ones(3, {"dot": 5, "pool": 1}[read], requires_grad=True)
    found = events.dot(packed_LD, beside) if read == "dot" else events.pool(beside, packed_LD)
    assert not found.any()
    found.sum().backward()
    assert packed_LD.grad is not None
    assert beside.grad is not None
