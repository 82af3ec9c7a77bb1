"""Blocks on packed tokens against their formulas, written out for one sequence at a time."""

import pytest
import torch
import torch.nn.functional as F
from plain_attention import (
    ANY_TOKENS,
    LENGTHS,
    block_shape,
    last_tokens,
    plain_attention,
    tokens,
)

from recsys.nn.blocks import LiGRBlock, PostNormBlock, PreNormBlock, SASRecBlock
from recsys.nn.sequences import LengthBuckets, Questions


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


def plain_ligr(block, x):
    z = block.attention_norm(x)
    x = x + torch.sigmoid(block.attention_gate(x)) * plain_attention(block.attention, z, z)
    z, w = block.feed_forward_norm(x), block.feed_forward
    gate = z @ w.gate.weight.T
    fed = (gate * torch.sigmoid(gate) * (z @ w.hidden.weight.T)) @ w.output.weight.T
    return x + torch.sigmoid(block.feed_forward_gate(x)) * fed


BLOCKS = pytest.mark.parametrize(
    ("block_class", "plain"),
    [
        (PostNormBlock, plain_post_norm),
        (PreNormBlock, plain_pre_norm),
        (SASRecBlock, plain_sasrec),
        (LiGRBlock, plain_ligr),
    ],
)
CAUSAL = pytest.mark.parametrize("causal", [True, False])


def made(block_class, **shape):
    """A block with weights that are not at their starting points."""
    torch.manual_seed(1)
    block = block_class(block_shape(**shape)).double()
    for weight in block.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return block


@BLOCKS
@CAUSAL
@pytest.mark.parametrize("num_buckets", [1, 3, 20])
@pytest.mark.parametrize("asks", [False, True])
def test_block_and_its_gradients(block_class, plain, causal, num_buckets, asks):
    x, lengths_B, block = tokens(), torch.tensor(LENGTHS), made(block_class, causal=causal)
    buckets = LengthBuckets.of(lengths_B, num_buckets=num_buckets)
    expected = torch.cat([plain(block, part) for part in x.split(LENGTHS) if len(part)])
    questions = None
    if asks:
        token_M = last_tokens(LENGTHS) if causal else torch.tensor(ANY_TOKENS)
        questions = Questions.of(token_M, lengths_B=lengths_B, buckets=buckets)
        expected = expected[token_M]
    packed = block(x, buckets, questions)
    torch.testing.assert_close(packed, expected)

    weights = torch.randn_like(packed)
    wanted = [x, *block.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((packed * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
    )


@BLOCKS
@CAUSAL
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("lengths", [[], [0, 0], [1], [0, 1, 0]])
def test_hardly_any_token(block_class, plain, causal, rotary, lengths):
    x, block = tokens(lengths), made(block_class, causal=causal, rotary=rotary)
    out = block(x, LengthBuckets.of(torch.tensor(lengths, dtype=torch.long)))
    expected = [plain(block, part) for part in x.split(lengths) if len(part)]
    torch.testing.assert_close(out, torch.cat(expected) if expected else x)
    out.sum().backward()
    assert all(weight.grad is not None for weight in block.parameters())


@BLOCKS
@CAUSAL
def test_dropout_in_training_alone(block_class, plain, causal):
    x, block = tokens(), made(block_class, causal=causal, dropout=0.5)
    buckets = LengthBuckets.of(torch.tensor(LENGTHS))
    first, second = block(x, buckets), block(x, buckets)
    assert not torch.allclose(first, second)
    expected = torch.cat([plain(block, part) for part in x.split(LENGTHS) if len(part)])
    torch.testing.assert_close(block.eval()(x, buckets), expected)
