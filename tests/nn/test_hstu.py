"""HSTU's block against equations 2 to 4 of the paper, one history, head and pair at a time."""

import math

import pytest
import torch
import torch.nn.functional as F

from recsys.nn.hstu import Distances, HSTUBlock
from recsys.nn.sequences import LengthBuckets, Questions

LENGTHS = [3, 0, 1, 7, 7, 2, 5, 1, 0, 4]
WIDTH, HEADS, HEAD_WIDTH, MAX_LENGTH = 6, 3, 4, 9
INNER = HEADS * HEAD_WIDTH


def block(**settings):
    torch.manual_seed(1)
    made = HSTUBlock(
        width=WIDTH,
        num_heads=HEADS,
        head_width=HEAD_WIDTH,
        max_length=MAX_LENGTH,
        **{"dropout": 0.0} | settings,
    ).double()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return made


def inputs(lengths=LENGTHS, *, timed):
    """Tokens, seconds of events and seconds that are asked for, from far apart to out of order."""
    torch.manual_seed(0)
    tokens_LD = torch.randn(sum(lengths), WIDTH, dtype=torch.float64, requires_grad=True)
    times_L = (torch.randn(sum(lengths)) * 10 ** (8 * torch.rand(sum(lengths)))).long()
    asked_at_L = times_L + torch.randint(-3, 5000, times_L.shape)
    return tokens_LD, *((times_L, asked_at_L) if timed else (None, None))


def plain(hstu, x, times, asked):
    """Give what one history becomes."""
    z = F.layer_norm(x, (WIDTH,), hstu.input_norm.weight, hstu.input_norm.bias)
    u, q = F.silu(z @ hstu.gate_query.weight.T).split(INNER, dim=1)
    k, v = F.silu(z @ hstu.key_value.weight.T).split(INNER, dim=1)
    rows = []
    for i in range(len(x)):
        heads = []
        for head in range(HEADS):
            part, gathered = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH), 0.0
            for j in range(i + 1):
                weight = q[i, part] @ k[j, part] + hstu.event_bias[i - j]
                if times is not None:
                    gap = max(abs(int(asked[i] - times[j])), 1)
                    weight = weight + hstu.gap_bias[min(int(math.log(gap) / 0.301), 128)]
                gathered = gathered + weight * weight.sigmoid() / MAX_LENGTH * v[j, part]
            heads.append(gathered)
        rows.append(torch.cat(heads))
    norm = hstu.attended_norm
    attended = F.layer_norm(torch.stack(rows), (INNER,), norm.weight, norm.bias)
    return x + (attended * u) @ hstu.output.weight.T + hstu.output.bias


def run(hstu, x, times, asked, *, lengths=LENGTHS, num_buckets=3, token_M=None):
    lengths_B = torch.tensor(lengths, dtype=torch.int64)
    buckets, questions = LengthBuckets.of(lengths_B, num_buckets=num_buckets), None
    if token_M is not None:
        questions = Questions.of(token_M, lengths_B=lengths_B, buckets=buckets)
    return hstu(
        x, buckets, Distances(buckets, questions, times_L=times, asked_at_L=asked), questions
    )


def by_history(hstu, x, times, asked):
    columns = [[None] * len(LENGTHS) if c is None else c.split(LENGTHS) for c in (x, times, asked)]
    return torch.cat([plain(hstu, *h) for h in zip(*columns, strict=True) if len(h[0])])


@pytest.mark.parametrize("num_buckets", [1, 3, 20])
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("only_last", [False, True])
def test_block_and_its_gradients(num_buckets, timed, only_last):
    hstu, read = block(), inputs(timed=timed)
    ends_B = torch.tensor(LENGTHS).cumsum(0) - 1
    token_M = ends_B[torch.tensor(LENGTHS) > 0] if only_last else None
    packed = run(hstu, *read, num_buckets=num_buckets, token_M=token_M)
    expected = by_history(hstu, *read)
    expected = expected if token_M is None else expected[token_M]
    torch.testing.assert_close(packed, expected)

    weights = torch.randn_like(packed)
    wanted = [read[0], *hstu.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((packed * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted, materialize_grads=True),
    )


def test_only_differences_of_times_count():
    hstu, (x, times, asked) = block(), inputs(timed=True)
    torch.testing.assert_close(
        run(hstu, x, times + 10**9, asked + 10**9), run(hstu, x, times, asked)
    )
    assert not torch.allclose(run(hstu, x, times, asked + 5000), run(hstu, x, times, asked))


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("lengths", [[], [0, 0], [1], [0, 1, 0]])
def test_gradients_of_hardly_any_token(lengths, timed):
    """Where processes train together, each awaits a gradient of every parameter."""
    hstu, read = block(), inputs(lengths, timed=timed)
    out = run(hstu, *read, lengths=lengths)
    assert out.shape == (sum(lengths), WIDTH)
    out.sum().backward()
    assert all(weight.grad is not None for weight in hstu.parameters())


def test_dropout_in_training_alone():
    hstu, read = block(dropout=0.5), inputs(timed=True)
    assert not torch.allclose(run(hstu, *read), run(hstu, *read))
    torch.testing.assert_close(run(hstu.eval(), *read), by_history(hstu, *read))
