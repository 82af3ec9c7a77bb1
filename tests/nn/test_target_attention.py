"""Attention of a target against the words of its paper."""

import torch

from recsys.nn.events import Events
from recsys.nn.target_attention import ActivationUnit


def test_an_activation_unit_reads_target_event_difference_and_product():
    torch.manual_seed(0)
    unit = ActivationUnit(3, hidden=5).double()
    target_BD = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    packed_LD = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    events = Events(
        token_BK=torch.tensor([[2, 0, 1], [3, 0, 0]]),
        is_event_BK=torch.tensor([[True, True, True], [True, False, False]]),
        age_BK=torch.tensor([[1, 2, 3], [1, 1, 1]]),
    )
    places = [(0, 0, 2), (0, 1, 0), (0, 2, 1), (1, 0, 3)]  # example, place in its list, event
    expected = []
    for example, _, event in places:
        itself, other = target_BD[example], packed_LD[event]
        read = torch.cat([itself, other, itself - other, itself * other])
        expected.append(unit.layers(read)[0] / 3)
    read_by = [target_BD, packed_LD, *unit.parameters()]
    expected_gradients = torch.autograd.grad(torch.stack(expected).sin().sum(), read_by)

    scores_BK = unit(target_BD, packed_LD, events)
    found = torch.stack([scores_BK[example, place] for example, place, _ in places])
    torch.testing.assert_close(found, torch.stack(expected))
    gradients = torch.autograd.grad(found.sin().sum(), read_by)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
