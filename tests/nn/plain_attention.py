"""Attention of one sequence, head by head and row by row: what packed attention is held against."""

import torch

from recsys.nn.attention import BlockShape

LENGTHS = [3, 0, 1, 7, 7, 2, 5, 1, 0, 4]
WIDTH, HEADS, HEAD_WIDTH = 6, 3, 4
ANY_TOKENS = [0, 2, 4, 5, 6, 10, 18, 29]  # of LENGTHS: several, one or none of a sequence


def block_shape(*, causal, dropout=0.0, rotary=False, head_width=HEAD_WIDTH):
    return BlockShape(
        width=WIDTH,
        num_heads=HEADS,
        head_width=head_width,
        hidden_width=8,
        dropout=dropout,
        attention_dropout=dropout,
        causal=causal,
        rotary=rotary,
    )


def tokens(lengths=LENGTHS):
    torch.manual_seed(0)
    return torch.randn(sum(lengths), WIDTH, dtype=torch.float64, requires_grad=True)


def last_tokens(lengths):
    ends = torch.tensor(lengths).cumsum(0) - 1
    return ends[torch.tensor(lengths) > 0]


def plain_attention(attention, queries, keys):
    """Softmax attention as in section 3.2 of Vaswani et al."""
    width, inner = attention.shape.head_width, HEADS * attention.shape.head_width
    q, kv = attention.query(queries), attention.key_value(keys)
    k, v = kv[:, :inner], kv[:, inner:]
    rows = []
    for i in range(len(queries)):
        last = i + 1 if attention.shape.causal else len(keys)
        heads = []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            own_q, own_k = q[:, part], k[:, part]
            if attention.shape.rotary:
                own_q, own_k = turned(own_q), turned(own_k)
            weights = (own_k[:last] @ own_q[i] / width**0.5).softmax(0)
            heads.append(weights @ v[:last, part])
        rows.append(torch.cat(heads))
    return attention.output(torch.stack(rows))


def turned(rows):
    """RoFormer's rotation as a product of complex numbers; place i is turned by -i angles."""
    half = rows.shape[1] // 2
    pairs = torch.complex(rows[:, :half], rows[:, half:])
    angles = [[-i / 10_000 ** (j / half) for j in range(half)] for i in range(len(rows))]
    pairs = pairs * torch.exp(1j * torch.tensor(angles, dtype=torch.float64))
    return torch.cat([pairs.real, pairs.imag], dim=1)
