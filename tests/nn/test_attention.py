"""Blocks on packed tokens against plain ones, written out for one sequence at a time."""

import pytest
import torch
import torch.nn.functional as F

from recsys.nn.attention import Attention, BlockShape, PostNormBlock, PreNormBlock, SASRecBlock
from recsys.nn.sequences import LengthBuckets

LENGTHS = [3, 0, 1, 7, 7, 2, 5, 1, 0, 4]
WIDTH, HEADS, HEAD_WIDTH = 6, 2, 5


def shape(*, causal, dropout=0.0):
    return BlockShape(
        width=WIDTH,
        num_heads=HEADS,
        head_width=HEAD_WIDTH,
        hidden_width=8,
        dropout=dropout,
        attention_dropout=dropout,
        causal=causal,
    )


def tokens(lengths=LENGTHS):
    torch.manual_seed(0)
    return torch.randn(sum(lengths), WIDTH, dtype=torch.float64, requires_grad=True)


def plain_attention(attention, queries, keys):
    """Softmax attention of one sequence, head by head, row by row."""
    inner = HEADS * HEAD_WIDTH
    q, kv = attention.query(queries), attention.key_value(keys)
    k, v = kv[:, :inner], kv[:, inner:]
    rows = []
    for i in range(len(queries)):
        last = i + 1 if attention.shape.causal else len(keys)
        heads = []
        for head in range(HEADS):
            part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
            weights = (k[:last, part] @ q[i, part] / HEAD_WIDTH**0.5).softmax(0)
            heads.append(weights @ v[:last, part])
        rows.append(torch.cat(heads))
    return attention.output(torch.stack(rows))


def plain_feed_forward(layer, x, activation):
    return layer.output(activation(layer.hidden(x)))


def plain_post_norm(block, x):
    x = block.attention_norm(x + plain_attention(block.attention, x, x))
    return block.feed_forward_norm(x + plain_feed_forward(block.feed_forward, x, F.gelu))


def plain_pre_norm(block, x):
    z = block.attention_norm(x)
    x = x + plain_attention(block.attention, z, z)
    return x + plain_feed_forward(block.feed_forward, block.feed_forward_norm(x), F.gelu)


def plain_sasrec(block, x):
    q = block.attention_norm(x)
    z = block.feed_forward_norm(q + plain_attention(block.attention, q, x))
    return z + plain_feed_forward(block.feed_forward, z, F.relu)


BLOCKS = [
    (PostNormBlock, plain_post_norm, False),
    (PostNormBlock, plain_post_norm, True),
    (PreNormBlock, plain_pre_norm, True),
    (PreNormBlock, plain_pre_norm, False),
    (SASRecBlock, plain_sasrec, True),
]


@pytest.mark.parametrize("num_buckets", [1, 3, 20])
@pytest.mark.parametrize(("block_class", "plain", "causal"), BLOCKS)
def test_block_and_its_gradients(block_class, plain, causal, num_buckets):
    x, block = tokens(), block_class(shape(causal=causal)).double()
    packed = block(x, LengthBuckets.of(torch.tensor(LENGTHS), num_buckets=num_buckets))
    expected = torch.cat([plain(block, part) for part in x.split(LENGTHS) if len(part)])
    torch.testing.assert_close(packed, expected)

    weights = torch.randn_like(packed)
    wanted = [x, *block.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((packed * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
    )


@pytest.mark.parametrize("lengths", [[], [0, 0], [1], [0, 1, 0]])
@pytest.mark.parametrize(("block_class", "plain", "causal"), BLOCKS)
def test_hardly_any_token(block_class, plain, causal, lengths):
    x, block = tokens(lengths), block_class(shape(causal=causal)).double()
    out = block(x, LengthBuckets.of(torch.tensor(lengths, dtype=torch.long)))
    expected = [plain(block, part) for part in x.split(lengths) if len(part)]
    torch.testing.assert_close(out, torch.cat(expected) if expected else x)
    out.sum().backward()
    assert all(weight.grad is not None for weight in block.parameters())


@pytest.mark.parametrize("causal", [True, False])
def test_attention_dropout_keeps_the_mean(causal):
    """With attention dropout another kernel runs; on average it gives the same."""
    x, lengths = tokens([3, 5]), torch.tensor([3, 5])
    attention = Attention(shape(causal=causal, dropout=0.3)).double()
    buckets = LengthBuckets.of(lengths, num_buckets=1)
    with torch.no_grad():
        mean = torch.stack([attention(x, x, buckets) for _ in range(1500)]).mean(0)
        exact = attention.eval()(x, x, buckets)
    torch.testing.assert_close(mean, exact, atol=0.05, rtol=0)
