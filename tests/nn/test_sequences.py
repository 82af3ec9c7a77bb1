import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import RunConfigError
from recsys.nn.sequences import LengthBuckets, bucketize
from recsys.types import Jagged

lengths = st.lists(st.integers(0, 9), max_size=20)


@settings(deadline=None)
@given(lengths, st.integers(1, 6), st.booleans())
def test_each_slot_holds_the_right_token(lengths_B, num_buckets, single):
    num_tokens = sum(lengths_B)
    if single and not num_tokens:
        return
    lengths_tensor = torch.tensor(lengths_B, dtype=torch.int32)
    buckets = (
        LengthBuckets.single(lengths_tensor, num_tokens=num_tokens, width=9)
        if single
        else LengthBuckets.of(lengths_tensor, num_buckets=num_buckets)
    )
    assert len(buckets.shapes) <= num_buckets
    sequences = iter(torch.arange(num_tokens).split(lengths_B))
    expected = {tuple(sequence.tolist()) for sequence in sequences if len(sequence)}

    found, first_slot = set(), 0
    for (count, width), is_token in zip(buckets.shapes, buckets.is_token, strict=True):
        area = count * width
        slots = buckets.token_P[first_slot : first_slot + area].view(count, width)
        mask = torch.ones(count, width, dtype=torch.bool) if is_token is None else is_token
        for slot_row, mask_row in zip(slots, mask, strict=True):
            length = int(mask_row.sum())
            assert mask_row[:length].all(), "padding lies on the right"
            found.add(tuple(slot_row[:length].tolist()))
        first_slot += area
    assert expected <= found
    assert first_slot == len(buckets.token_P)
    assert torch.equal(buckets.token_P[buckets.slot_L], torch.arange(num_tokens))
    from_end = [n - 1 - i for n in lengths_B for i in range(n)]
    assert buckets.from_end_L.tolist() == from_end


def test_buckets_hold_sequences_of_similar_length():
    buckets = LengthBuckets.of(torch.tensor([9, 1, 0, 2, 8, 2]), num_buckets=2)
    assert buckets.shapes == ((3, 2), (2, 9))
    assert buckets.is_token[0] is not None
    assert buckets.is_token[0].tolist() == [[True, False], [True, True], [True, True]]
    assert LengthBuckets.of(torch.tensor([3, 3])).is_token == (None, None)


def test_sequence_longer_than_the_positions():
    items = Jagged(torch.zeros(5, 2), torch.tensor([4, 1]))
    with pytest.raises(RunConfigError) as caught:
        bucketize(items, max_length=3, where="SASRec")
    assert str(caught.value) == (
        "SASRec.max_length: is shorter than a sequence, got 3 for one of 4 tokens; allowed 4 or "
        "more; raise it, or lower the sequence's max_length in the feature file (a mask at the "
        "end counts as a token)"
    )
