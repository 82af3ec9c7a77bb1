import math

import pytest
import torch
import torch.nn.functional as F

from recsys.losses import binary_cross_entropy, full_softmax


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


def random_softmax_inputs(num_positions, dtype=torch.float64):
    torch.manual_seed(0)
    hidden_MD = torch.randn(num_positions, 4, dtype=dtype, requires_grad=True)
    items_VD = torch.randn(9, 4, dtype=dtype, requires_grad=True)
    bias_V = torch.randn(9, dtype=dtype, requires_grad=True)
    targets_M = torch.arange(num_positions) % 9

    def score(hidden_MD, items_KD, item_ids_K):
        return hidden_MD.tanh() @ items_KD.T + bias_V[item_ids_K]

    return hidden_MD, items_VD, bias_V, targets_M, score


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_full_softmax_is_plain_cross_entropy_without_item_0(chunk):
    hidden_MD, items_VD, bias_V, targets_M, score = random_softmax_inputs(11)
    loss = full_softmax(hidden_MD, items_VD, targets_M, score, chunk=chunk)
    logits_MV = score(hidden_MD, items_VD, torch.arange(9))
    logits_MV[:, 0] = -torch.inf
    known = targets_M > 0
    expected = F.cross_entropy(logits_MV[known], targets_M[known])
    torch.testing.assert_close(loss, expected)
    inputs = (hidden_MD, items_VD, bias_V)
    torch.testing.assert_close(
        torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * expected, inputs)
    )


def test_full_softmax_gradcheck():
    hidden_MD, items_VD, _, targets_M, score = random_softmax_inputs(5)
    assert torch.autograd.gradcheck(
        lambda h, i: full_softmax(h, i, targets_M, score, chunk=2), (hidden_MD, items_VD)
    )


@pytest.mark.parametrize("num_positions", [0, 1])
def test_full_softmax_without_a_known_target(num_positions):
    """One position has target 0; the loss is 0 and still reaches the parameters."""
    hidden_MD, items_VD, bias_V, targets_M, score = random_softmax_inputs(num_positions)
    loss = full_softmax(hidden_MD, items_VD, targets_M, score)
    loss.backward()
    assert loss == 0
    assert torch.equal(bias_V.grad, torch.zeros(9))
    assert torch.equal(items_VD.grad, torch.zeros(9, 4))


def test_full_softmax_never_holds_all_logits():
    """No tensor that lives until the backward pass has a row of logits per position."""
    hidden_MD, items_VD, _, targets_M, score = random_softmax_inputs(30)
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: shapes.append(tuple(saved.shape)) or saved, lambda saved: saved
    ):
        full_softmax(hidden_MD, items_VD, targets_M, score, chunk=10)
    assert not [shape for shape in shapes if shape[-1:] == (8,) and len(shape) == 2]
    assert not [shape for shape in shapes if shape[:1] == (30,) and len(shape) == 2]
