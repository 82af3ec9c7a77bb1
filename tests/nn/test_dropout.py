import math

import pytest
import torch

from recsys.nn.dropout import Dropout

SHARES = [0.001, 1 / 256, 0.1, 0.25, 0.5, 0.9, 0.999]


@pytest.mark.parametrize("share", SHARES)
def test_share_that_is_dropped_and_the_mean(share):
    torch.manual_seed(0)
    rounded = min(round(share * 256), 255) / 256
    count = 1 << 17
    kept = Dropout(share)(torch.ones(count))
    assert set(kept.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - rounded)).item()}
    five_deviations = 5 * math.sqrt(rounded * (1 - rounded) / count)
    assert abs((kept == 0).double().mean() - rounded) <= five_deviations
    assert abs(kept.double().mean() - 1) <= five_deviations / (1 - rounded) + 1e-6


def test_numbers_are_dropped_independently():
    """Neighbours share a random word, of which each takes a byte; they do not share their fate."""
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(1 << 14, 8)) == 0).double()
    bound = 5 * math.sqrt(0.25 / len(dropped))
    assert ((dropped.mean(0) - 0.5).abs() < bound).all()
    together = torch.corrcoef(dropped.T) - torch.eye(8)
    assert together.abs().max() < 5 / math.sqrt(len(dropped))


@pytest.mark.parametrize("dropout", [Dropout(0.0), Dropout(0.5).eval()])
def test_nothing_is_dropped(dropout):
    numbers, state = torch.randn(5), torch.get_rng_state()
    assert dropout(numbers) is numbers
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (8,), (9,), (3, 5), (2, 0, 3), (5, 1, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mask_follows_the_generator_for_any_size(shape, dtype):
    dropout, numbers = Dropout(0.5), torch.ones(shape, dtype=dtype)
    state = torch.get_rng_state()
    first = dropout(numbers)
    assert first.shape == shape
    assert first.dtype == dtype
    assert set(first.unique().tolist()) <= {0.0, 2.0}
    torch.set_rng_state(state)
    assert torch.equal(dropout(numbers), first)


def test_each_call_draws_anew():
    dropout, numbers = Dropout(0.5), torch.ones(100)
    assert not torch.equal(dropout(numbers), dropout(numbers))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_is_the_mask(dtype):
    torch.manual_seed(0)
    numbers = (torch.rand(7, 5) + 1).to(dtype).T.requires_grad_()  # not contiguous
    kept = Dropout(0.3)(numbers)
    upstream = torch.rand(5, 7).to(dtype)
    kept.backward(upstream)
    scale = torch.tensor(256 / (256 - 77)).to(dtype)
    mask = (kept != 0).to(dtype) * scale
    assert 0 < (mask == 0).sum() < 35
    assert torch.equal(kept, numbers * mask)
    assert torch.equal(numbers.grad, upstream * mask)
