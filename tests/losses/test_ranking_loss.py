import math

import pytest
import torch

from recsys.losses import binary_cross_entropy


def test_binary_cross_entropy_by_hand():
    logits_BT = torch.tensor([[0.0, 2.0], [1.0, -1.0], [5.0, 5.0]], requires_grad=True)
    labels_BT = torch.tensor([[1.0, 0.0], [torch.nan, 1.0], [torch.nan, torch.nan]])
    loss = binary_cross_entropy(logits_BT, labels_BT, torch.tensor([1.0, 2.0, 7.0]))
    first = (math.log(2) + math.log(1 + math.exp(2))) / 2
    second = math.log(1 + math.exp(1))  # its only label
    assert loss.item() == pytest.approx((first + 2 * second) / 3)
    loss.backward()
    assert logits_BT.grad[1, 0] == 0
    assert logits_BT.grad[2].tolist() == [0, 0]


def test_binary_cross_entropy_without_examples_or_weight():
    empty = binary_cross_entropy(torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(0))
    weightless = binary_cross_entropy(torch.ones(2, 1), torch.ones(2, 1), torch.zeros(2))
    assert empty == weightless == 0
