"""Attention on packed tokens against a plain one, one sequence at a time."""

import pytest
import torch
from plain_attention import (
    ANY_TOKENS,
    HEADS,
    LENGTHS,
    WIDTH,
    block_shape,
    last_tokens,
    plain_attention,
    tokens,
)

from recsys.nn.attention import Attention, rotate, rotation
from recsys.nn.sequences import LengthBuckets, Questions


@pytest.mark.parametrize("num_buckets", [1, 3, 20])
@pytest.mark.parametrize(("rotary", "head_width"), [(False, 5), (True, 4), (True, 2)])
@pytest.mark.parametrize(
    ("causal", "asked"), [(False, None), (False, ANY_TOKENS), (True, None), (True, "last")]
)
def test_attention_and_its_gradients(causal, asked, rotary, head_width, num_buckets):
    x, lengths_B = tokens(), torch.tensor(LENGTHS)
    keys = torch.randn_like(x, requires_grad=True)
    shape = block_shape(causal=causal, rotary=rotary, head_width=head_width)
    attention = Attention(shape).double()
    buckets = LengthBuckets.of(lengths_B, num_buckets=num_buckets)
    by_sequence = zip(x.split(LENGTHS), keys.split(LENGTHS), strict=True)
    expected = torch.cat([plain_attention(attention, q, k) for q, k in by_sequence if len(q)])
    if asked is None:
        packed = attention(x, keys, buckets)
    else:
        token_M = last_tokens(LENGTHS) if asked == "last" else torch.tensor(asked)
        questions = Questions.of(token_M, lengths_B=lengths_B, buckets=buckets)
        packed, expected = attention(x[token_M], keys, buckets, questions), expected[token_M]
    near = {"atol": 1e-6, "rtol": 1e-6} if rotary else {}  # angles are single precision
    torch.testing.assert_close(packed, expected, **near)

    weights = torch.randn_like(packed)
    wanted = [x, keys, *attention.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((packed * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        **near,
    )


@pytest.mark.parametrize("head_width", [2, 4, 10])
def test_rotary_scores_depend_on_distances_alone(head_width):
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, HEADS * head_width, dtype=torch.float64)

    def score(query_place, key_place):
        turns = rotation(torch.tensor([query_place, key_place]), head_width, dtype=torch.float64)
        parts = rotate(query, turns[:1]), rotate(key, turns[1:])
        return torch.stack(parts).view(2, HEADS, head_width).prod(0).sum(1)

    for distance in (-9, 0, 1, 50):
        first = score(distance, 0)
        for shift in (9, 10, 100):
            torch.testing.assert_close(score(distance + shift, shift), first, atol=1e-4, rtol=0)
    assert not torch.allclose(score(0, 1), score(1, 0)), "before and after are not the same"
    torch.testing.assert_close(score(7, 7), (query * key).view(HEADS, -1).sum(1))
    turns = rotation(torch.tensor([123]), head_width, dtype=torch.float64)
    torch.testing.assert_close(rotate(query, turns).norm(), query.norm())


@pytest.mark.parametrize("head_width", [1, 16])
def test_heads_of_any_width(head_width):
    attention = Attention(block_shape(causal=True, head_width=head_width)).double()
    assert attention.key_value.out_features == 2 * HEADS * head_width
    x = tokens()
    assert attention(x, x, LengthBuckets.of(torch.tensor(LENGTHS))).shape == (30, WIDTH)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_dropout_keeps_the_mean(causal):
    """With attention dropout another kernel runs; on average it gives the same."""
    x, lengths = tokens([3, 5]), torch.tensor([3, 5])
    attention = Attention(block_shape(causal=causal, dropout=0.3)).double()
    buckets = LengthBuckets.of(lengths, num_buckets=1)
    with torch.no_grad():
        mean = torch.stack([attention(x, x, buckets) for _ in range(1500)]).mean(0)
        exact = attention.eval()(x, x, buckets)
    torch.testing.assert_close(mean, exact, atol=0.05, rtol=0)
    assert torch.equal(exact, attention(x, x, buckets))
