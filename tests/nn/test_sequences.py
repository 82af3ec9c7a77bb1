import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import RunConfigError
from recsys.nn.sequences import LengthBuckets, Questions, bucketize

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


@settings(deadline=None)
@given(lengths.filter(sum), st.integers(1, 6), st.data())
def test_questions_lie_beside_their_sequences(lengths_B, num_buckets, data):
    tokens = range(sum(lengths_B))
    wanted = sorted(data.draw(st.sets(st.sampled_from(tokens), min_size=1)))
    sequence_of = [number for number, length in enumerate(lengths_B) for _ in range(length)]
    lengths_tensor = torch.tensor(
        lengths_B, dtype=data.draw(st.sampled_from([torch.int32, torch.int64]))
    )
    buckets = LengthBuckets.of(lengths_tensor, num_buckets=num_buckets)
    questions = Questions.of(torch.tensor(wanted), lengths_B=lengths_tensor, buckets=buckets)
    assert questions.token_M.tolist() == wanted

    def rectangles(slots_P, shapes):
        parts = slots_P.split([count * width for count, width in shapes])
        return [part.view(shape).tolist() for part, shape in zip(parts, shapes, strict=True)]

    slots, first_slot = {}, 0
    of_buckets = rectangles(buckets.token_P, buckets.shapes)
    of_questions = rectangles(questions.question_P, questions.shapes)
    for bucket, bucket_of_questions in zip(of_buckets, of_questions, strict=True):
        most = 0
        for token_row, question_row in zip(bucket, bucket_of_questions, strict=True):
            own = [m for m, t in enumerate(wanted) if sequence_of[t] == sequence_of[token_row[0]]]
            assert question_row[: len(own)] == own
            assert all(0 <= question < len(wanted) for question in question_row)
            slots |= {m: first_slot + place for place, m in enumerate(own)}
            first_slot += len(question_row)
            most = max(most, len(own))
        assert len(bucket_of_questions[0]) == max(most, 1), "no wider than needed"
    assert questions.slot_M.tolist() == [slots[m] for m in range(len(wanted))]
    assert len(questions.question_P) == first_slot


def test_questions_by_hand():
    """The second sequence is empty; the third asks nothing."""
    lengths_B = torch.tensor([3, 0, 2, 1])
    buckets = LengthBuckets.of(lengths_B, num_buckets=2)
    assert buckets.shapes == ((2, 2), (1, 3))
    questions = Questions.of(torch.tensor([0, 2, 5]), lengths_B=lengths_B, buckets=buckets)
    assert questions.shapes == ((2, 1), (1, 2))
    assert questions.question_P[questions.slot_M].tolist() == [0, 1, 2]
    assert questions.slot_M.tolist() == [2, 3, 0]


def test_sequence_longer_than_the_positions():
    lengths_B = torch.tensor([4, 1])
    assert bucketize(lengths_B, num_tokens=5, max_length=4, where="SASRec").shapes == (
        (1, 1),
        (1, 4),
    )
    with pytest.raises(RunConfigError) as caught:
        bucketize(lengths_B, num_tokens=5, max_length=3, where="SASRec")
    assert str(caught.value) == (
        "SASRec.max_length: is shorter than a sequence, got 3 for one of 4 tokens; allowed 4 or "
        "more; raise it, or lower the sequence's max_length in the feature file (a mask at the "
        "end counts as a token)"
    )


@pytest.mark.parametrize("lengths_B", [[], [0, 0]])
def test_no_token(lengths_B):
    none = torch.tensor(lengths_B, dtype=torch.int64)
    assert bucketize(none, num_tokens=0, max_length=1, where="SASRec").shapes == ()
