"""Editing packed sequences: their last tokens, and one more at the end."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def is_last(lengths_B: Tensor) -> Tensor:
    """Which packed tokens (L) are the last of their sequence."""
    is_last_L = torch.zeros(int(lengths_B.sum()), dtype=torch.bool, device=lengths_B.device)
    is_last_L[(lengths_B.cumsum(0) - 1)[lengths_B > 0]] = True
    return is_last_L


def is_first(lengths_B: Tensor) -> Tensor:
    """Which packed tokens (L) are the first of their sequence."""
    is_first_L = torch.zeros(int(lengths_B.sum()), dtype=torch.bool, device=lengths_B.device)
    is_first_L[(lengths_B.cumsum(0) - lengths_B)[lengths_B > 0]] = True
    return is_first_L


def keep_last(ids_L: Tensor, lengths_B: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The last tokens of each sequence, `most` of them where there are more."""
    ends_L = lengths_B.cumsum(0).repeat_interleave(lengths_B, output_size=len(ids_L))
    from_end_L = ends_L - torch.arange(len(ids_L), device=ids_L.device)
    return ids_L[from_end_L <= most], lengths_B.clamp(max=most)


def append_token(
    ids_L: Tensor, lengths_B: Tensor, token: int, *, where_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sequences with one more token at the end.

    Args:
        ids_L: Packed tokens.
        lengths_B: Of each sequence.
        token: What is appended.
        where_B: Sequences that get it; all where it is left out.
    """
    extra_B = torch.ones_like(lengths_B) if where_B is None else where_B.to(lengths_B.dtype)
    longer_B = lengths_B + extra_B
    is_new_L = is_last(longer_B)
    is_new_L[is_new_L.clone()] = extra_B[longer_B > 0] > 0
    longer_L = torch.full_like(is_new_L, token, dtype=ids_L.dtype)
    longer_L[~is_new_L] = ids_L
    return longer_L, longer_B


def as_question(
    ids_L: Tensor, lengths_B: Tensor, *, objective: Literal["next", "cloze"], max_length: int
) -> tuple[Tensor, Tensor]:
    """Histories in the form in which an encoder is asked for what comes next.

    Args:
        ids_L: Item ids of the histories, packed.
        lengths_B: Of each history.
        objective: `cloze`: an unknown item is added at the end, to be masked; `next`: only to a
            history that is empty, which still asks a question.
        max_length: Tokens that the encoder has positions for.
    """
    if objective == "cloze":
        return append_token(*keep_last(ids_L, lengths_B, max_length - 1), 0)
    return append_token(ids_L, lengths_B, 0, where_B=lengths_B == 0)
