import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.nn.tokens import append_token, as_question, is_first, is_last, keep_last

SEQUENCES = st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=6)


def pack(sequences):
    ids_L = torch.tensor([*itertools.chain(*sequences)], dtype=torch.int64)
    return ids_L, torch.tensor([len(s) for s in sequences])


def unpack(packed):
    ids_L, lengths_B = packed
    return [part.tolist() for part in ids_L.split(lengths_B.tolist())]


@given(SEQUENCES)
def test_first_and_last(sequences):
    ids_L, lengths_B = pack(sequences)
    assert ids_L[is_last(lengths_B)].tolist() == [s[-1] for s in sequences if s]
    assert ids_L[is_first(lengths_B)].tolist() == [s[0] for s in sequences if s]


@given(SEQUENCES, st.integers(1, 6))
def test_keep_last(sequences, most):
    assert unpack(keep_last(*pack(sequences), most)) == [s[-most:] for s in sequences]


@given(SEQUENCES)
def test_append_token(sequences):
    assert unpack(append_token(*pack(sequences), 0)) == [[*s, 0] for s in sequences]
    where_B = torch.tensor([len(s) % 2 == 0 for s in sequences])
    expected = [[*s, 0] if len(s) % 2 == 0 else s for s in sequences]
    assert unpack(append_token(*pack(sequences), 0, where_B=where_B)) == expected


@given(SEQUENCES)
def test_questions_fit_the_model_and_are_never_empty(sequences):
    cloze = unpack(as_question(*pack(sequences), objective="cloze", max_length=3))
    assert cloze == [[*s[-2:], 0] for s in sequences]
    following = unpack(as_question(*pack(sequences), objective="next", max_length=3))
    assert following == [s or [0] for s in sequences]
