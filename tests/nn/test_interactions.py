import torch
from torch import nn

from recsys.nn.batch_norm import BatchNorm
from recsys.nn.interactions import CrossLayer, CrossNetwork, factorization_machine, pairwise_dots
from recsys.nn.mlp import MLP


def test_cross_layer_by_hand():
    layer = CrossLayer(2)
    assert isinstance(layer.weight, nn.Linear)
    layer.weight.weight.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    layer.weight.bias.data = torch.tensor([0.5, 1.0])
    first_BC, inputs_BC = torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, -1.0]])
    # W x + b = (1 - 2 + .5, 1 + 1) = (-.5, 2); times x_0 = (-1, 6); plus x = (0, 5)
    assert layer(first_BC, inputs_BC).tolist() == [[0.0, 5.0]]


def test_low_rank_cross_layer_is_a_full_one_of_that_rank():
    low, full = CrossLayer(5, low_rank=2), CrossLayer(5)
    assert isinstance(low.weight, nn.Sequential)
    assert isinstance(full.weight, nn.Linear)
    down, up = low.weight
    full.weight.weight.data = up.weight.data @ down.weight.data
    full.weight.bias.data = up.bias.data
    first_BC, inputs_BC = torch.randn(2, 3, 5)
    torch.testing.assert_close(low(first_BC, inputs_BC), full(first_BC, inputs_BC))


def test_cross_network_crosses_with_its_first_input():
    network = CrossNetwork(3, num_layers=2)
    inputs_BC = torch.randn(4, 3)
    once_BC = network.layers[0](inputs_BC, inputs_BC)
    assert torch.equal(network(inputs_BC), network.layers[1](inputs_BC, once_BC))
    assert torch.equal(CrossNetwork(3, num_layers=0)(inputs_BC), inputs_BC)


def test_pairs_against_loops():
    vectors_BFD = torch.randn(3, 5, 4)
    dots_BP = torch.stack(
        [(vectors_BFD[:, i] * vectors_BFD[:, j]).sum(1) for i in range(5) for j in range(i + 1, 5)],
        dim=1,
    )
    torch.testing.assert_close(pairwise_dots(vectors_BFD), dots_BP)
    torch.testing.assert_close(factorization_machine(vectors_BFD), dots_BP.sum(1, keepdim=True))


def test_one_vector_has_no_pairs():
    assert pairwise_dots(torch.randn(3, 1, 4)).shape == (3, 0)
    torch.testing.assert_close(factorization_machine(torch.randn(3, 1, 4)), torch.zeros(3, 1))


def test_mlp_layers_in_order():
    kinds = [type(layer) for layer in MLP(3, widths=(4, 2), dropout=0.1, batch_norm=True).layers]
    assert kinds == [nn.Linear, BatchNorm, nn.ReLU, nn.Dropout] * 2
    assert [type(layer) for layer in MLP(3, widths=(4,)).layers] == [nn.Linear, nn.ReLU]
    assert MLP(3, widths=()).out_width == 3


def test_one_row_is_normalised_by_the_running_values():
    torch.manual_seed(0)
    norm, plain = BatchNorm(3), nn.BatchNorm1d(3)
    rows_BC = 2 * torch.randn(7, 3) + 1
    assert torch.equal(norm(rows_BC), plain(rows_BC))  # both count these
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    assert torch.equal(norm(rows_BC[:1]), plain.eval()(rows_BC[:1]))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    norm(rows_BC[:1]).sum().backward()
    assert norm.weight.grad.all()
