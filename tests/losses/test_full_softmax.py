import pytest
import torch
import torch.nn.functional as F

from recsys.losses import FullSoftmax, full_softmax


def random_softmax_inputs(num_positions, dtype=torch.float64):
    torch.manual_seed(0)
    vectors_MD = torch.randn(num_positions, 4, dtype=dtype, requires_grad=True)
    items_VD = torch.randn(9, 4, dtype=dtype, requires_grad=True)
    bias_V = torch.randn(9, dtype=dtype, requires_grad=True)
    targets_M = torch.arange(num_positions) % 9
    return vectors_MD, items_VD, bias_V, targets_M


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_full_softmax_is_plain_cross_entropy_without_item_0(chunk):
    vectors_MD, items_VD, bias_V, targets_M = random_softmax_inputs(11)
    loss = full_softmax(vectors_MD, items_VD, targets_M, bias_V=bias_V, chunk=chunk)
    logits_MV = vectors_MD @ items_VD.T + bias_V
    logits_MV[:, 0] = -torch.inf
    known = targets_M > 0
    expected = F.cross_entropy(logits_MV[known], targets_M[known])
    torch.testing.assert_close(loss, expected)
    inputs = (vectors_MD, items_VD, bias_V)
    torch.testing.assert_close(
        torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * expected, inputs)
    )


def test_full_softmax_gradcheck():
    vectors_MD, items_VD, bias_V, targets_M = random_softmax_inputs(5)
    assert torch.autograd.gradcheck(
        lambda h, i, b: full_softmax(h, i, targets_M, bias_V=b, chunk=2),
        (vectors_MD, items_VD, bias_V),
    )


@pytest.mark.parametrize("num_positions", [0, 1])
def test_full_softmax_without_a_known_target(num_positions):
    """One position has target 0; the loss is 0 and still reaches the parameters."""
    vectors_MD, items_VD, bias_V, targets_M = random_softmax_inputs(num_positions)
    loss = full_softmax(vectors_MD, items_VD, targets_M, bias_V=bias_V)
    loss.backward()
    assert loss == 0
    assert torch.equal(bias_V.grad, torch.zeros(9))
    assert torch.equal(items_VD.grad, torch.zeros(9, 4))


def test_full_softmax_never_holds_all_logits():
    """No tensor that lives until the backward pass has a row of logits per position."""
    vectors_MD, items_VD, bias_V, targets_M = random_softmax_inputs(30)
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: shapes.append(tuple(saved.shape)) or saved, lambda saved: saved
    ):
        full_softmax(vectors_MD, items_VD, targets_M, bias_V=bias_V, chunk=10)
    assert not [shape for shape in shapes if shape[-1:] == (8,) and len(shape) == 2]
    assert (30, 4) in shapes


def test_full_softmax_is_as_precise_under_autocast():
    vectors_MD, items_VD, bias_V, targets_M = random_softmax_inputs(30, dtype=torch.float32)
    plain = full_softmax(vectors_MD, items_VD, targets_M, bias_V=bias_V, chunk=7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = full_softmax(
            vectors_MD.bfloat16(), items_VD, targets_M, bias_V=bias_V.bfloat16(), chunk=7
        )
    mixed.backward()
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, atol=2e-2, rtol=0)
    assert vectors_MD.grad is not None


def test_the_class_is_the_function():
    vectors_MD, items_VD, bias_V, targets_M = random_softmax_inputs(11)
    loss = FullSoftmax()(vectors_MD, items_VD, targets_M, bias_V=bias_V)
    assert loss == full_softmax(vectors_MD, items_VD, targets_M, bias_V=bias_V)
    assert FullSoftmax()(vectors_MD, items_VD, targets_M) != loss


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_full_softmax_of_flat_and_of_peaked_logits(scale):
    """Base 2 loses nothing in float32, where one item takes nearly all or all are alike."""
    vectors_MD, items_VD, _, targets_M = random_softmax_inputs(50, dtype=torch.float32)
    vectors_MD = (vectors_MD.detach() * scale).requires_grad_()
    logits_MV = vectors_MD.double() @ items_VD.double().T
    logits_MV[:, 0] = -torch.inf
    expected = F.cross_entropy(logits_MV[targets_M > 0], targets_M[targets_M > 0])
    loss = full_softmax(vectors_MD, items_VD, targets_M, chunk=16)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss, (vectors_MD, items_VD)),
        torch.autograd.grad(expected, (vectors_MD, items_VD)),
        rtol=1e-4,
        atol=1e-6,
    )
