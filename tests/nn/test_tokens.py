"""Edits of packed histories against the same edits of plain lists."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.nn.event_ids import UNKNOWN
from recsys.nn.tokens import Tokens, is_first, is_last
from recsys.types import Jagged

ITEM, SIDE, TIME = "history.item_id", "history.genre", "history.@time"
TAGS, COUNTS = "history.tags", "history.tags.@count"
SECONDS = st.integers(-(2**40), 2**40)
IDS = st.integers(1, 9)
EVENTS = st.lists(st.tuples(IDS, IDS, st.lists(IDS, max_size=3), SECONDS), max_size=5)
# Each history: its events (item, side, list column, second), and the second that is asked for.
HISTORIES = st.lists(st.tuples(EVENTS, SECONDS), min_size=1, max_size=6)


def packed(histories, *, timed=True):
    """Tokens of a batch whose columns lie in another order, among one that is not wanted."""
    columns = {
        "device": [[7] for _ in histories],
        TIME: [[*(second for *_, second in events), asked] for events, asked in histories],
        COUNTS: [[len(tags) for *_, tags, _ in events] for events, _ in histories],
        SIDE: [[side for _, side, *_ in events] for events, _ in histories],
        TAGS: [[tag for *_, tags, _ in events for tag in tags] for events, _ in histories],
        ITEM: [[item for item, *_ in events] for events, _ in histories],
    }
    sequences = KeyedJaggedTensor(
        keys=[*columns],
        values=torch.tensor([value for rows in columns.values() for row in rows for value in row]),
        lengths=torch.tensor([len(row) for rows in columns.values() for row in rows]),
    )
    return Tokens.of(sequences, keys=[ITEM, SIDE, TAGS], time_key=TIME if timed else None)


def rows(column_L, lengths_B):
    return [part.tolist() for part in column_L.split(lengths_B.tolist())]


def columns_of(tokens):
    """Ids, or lists of ids, of each column by history."""
    one_each = [rows(tokens.ids[key].values, tokens.lengths_B) for key in (ITEM, SIDE)]
    tags = iter(rows(tokens.ids[TAGS].values, tokens.ids[TAGS].counts_L))
    lists = [[next(tags) for _ in range(length)] for length in tokens.lengths_B.tolist()]
    assert next(tags, None) is None
    return [*one_each, lists]


def unpacked(tokens):
    by_history = zip(*columns_of(tokens), rows(tokens.times_L, tokens.lengths_B), strict=True)
    events = [[*zip(*history, strict=True)] for history in by_history]
    return [*zip(events, tokens.asked_at_B.tolist(), strict=True)]


def untimed(histories):
    return [([event[:3] for event in events], None) for events, _ in histories]


def unpacked_untimed(tokens):
    assert tokens.times_L is None
    assert tokens.asked_at_B is None
    assert tokens.asked_at_L() is None
    by_history = zip(*columns_of(tokens), strict=True)
    return [([*zip(*history, strict=True)], None) for history in by_history]


def check(histories, edit, edited):
    """Try an edit of tokens with and without times, and that its input stays as it was."""
    tokens = packed(histories)
    assert unpacked(edit(tokens)) == edited
    assert unpacked(tokens) == histories
    assert unpacked_untimed(edit(packed(histories, timed=False))) == untimed(edited)


def with_unknown(events, asked):
    return [*events, (UNKNOWN, UNKNOWN, [], asked)]


@settings(deadline=None)
@given(HISTORIES)
def test_tokens_of_a_batch(histories):
    check(histories, lambda tokens: tokens, histories)
    tokens = packed(histories)
    assert list(tokens.ids) == [ITEM, SIDE, TAGS]
    assert torch.equal(tokens.items_L, tokens.ids[ITEM].values)
    assert tokens.times_L.dtype == torch.int64


@settings(deadline=None)
@given(HISTORIES)
def test_first_and_last(histories):
    tokens = packed(histories)
    for of_place, place in ((is_first, 0), (is_last, -1)):
        expected = [events[place][0] for events, _ in histories if events]
        assert tokens.items_L[of_place(tokens.lengths_B)].tolist() == expected


@settings(deadline=None)
@given(HISTORIES, st.integers(0, 6))
def test_most_recent(histories, most):
    expected = [(events[max(len(events) - most, 0) :], asked) for events, asked in histories]
    check(histories, lambda tokens: tokens.most_recent(most), expected)


@settings(deadline=None)
@given(HISTORIES)
def test_the_last_event_becomes_what_is_asked_for(histories):
    expected = [(e[:-1], e[-1][-1] if e else asked) for e, asked in histories]
    check(histories, Tokens.without_last, expected)


@settings(deadline=None)
@given(HISTORIES, st.data())
def test_unknown_event_at_the_end(histories, data):
    size = len(histories)
    where = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    expected = [
        (with_unknown(*history) if longer else history[0], history[1])
        for history, longer in zip(histories, where, strict=True)
    ]
    check(histories, lambda tokens: tokens.with_unknown(torch.tensor(where)), expected)


@settings(deadline=None)
@given(HISTORIES, st.integers(1, 4))
def test_questions_fit_the_model_and_are_never_empty(histories, most):
    cloze = [(with_unknown(e[max(len(e) - most + 1, 0) :], a), a) for e, a in histories]
    check(histories, lambda tokens: tokens.as_question("cloze", max_length=most), cloze)
    following = [(e[-most:] or with_unknown([], a), a) for e, a in histories]
    check(histories, lambda tokens: tokens.as_question("next", max_length=most), following)


@settings(deadline=None)
@given(HISTORIES)
def test_each_token_asks_for_the_second_of_the_next_event(histories):
    tokens = packed(histories)
    expected = [[*(event[-1] for event in e[1:]), asked] for e, asked in histories if e]
    assert tokens.asked_at_L().tolist() == [*itertools.chain(*expected)]
    assert unpacked(tokens) == histories
    # In training the inputs ask for the seconds of their targets.
    target_times_M = tokens.times_L[~is_first(tokens.lengths_B)]
    assert torch.equal(tokens.without_last().asked_at_L(), target_times_M)


@settings(deadline=None)
@given(HISTORIES, st.lists(IDS, max_size=3), st.sampled_from([ITEM, SIDE, "output"]))
def test_what_is_looked_up_and_what_the_encoder_reads(histories, candidates, candidates_key):
    tokens = packed(histories)
    looked_up = tokens.keyed({candidates_key: torch.tensor(candidates, dtype=torch.int64)})
    found = {
        key: rows(jagged.values(), jagged.lengths()) for key, jagged in looked_up.to_dict().items()
    }
    expected = {
        key: [*([event[place] for event in events] for events, _ in histories), []]
        for place, key in enumerate((ITEM, SIDE))
    }
    tags = [[tags for *_, tags, _ in events] for events, _ in histories]
    expected[TAGS] = [*([tag for each in lists for tag in each] for lists in tags), []]
    expected[COUNTS] = [*([len(each) for each in lists] for lists in tags), []]
    expected.setdefault(candidates_key, [[] for _ in (*histories, None)])[-1] = candidates
    assert found == expected

    of_events = {ITEM: ITEM, SIDE: SIDE, TAGS: COUNTS, candidates_key: candidates_key}
    vectors = {
        key: Jagged(torch.stack([jagged.values(), -jagged.values()], dim=1), jagged.lengths())
        for key, jagged in ((key, looked_up[of]) for key, of in of_events.items())
    }
    history = tokens.history(vectors)
    assert history.items_LD.tolist() == [[i, -i] for i in tokens.items_L.tolist()]
    assert list(history.sides) == [SIDE, TAGS]
    assert history.sides[SIDE].tolist() == [[i, -i] for i in tokens.ids[SIDE].values.tolist()]
    assert history.sides[TAGS].tolist() == [[i, -i] for i in tokens.ids[TAGS].counts_L.tolist()]
    assert torch.equal(history.lengths_B, tokens.lengths_B)
    assert torch.equal(history.times_L, tokens.times_L)
    assert torch.equal(history.asked_at_L, tokens.asked_at_L())


@settings(deadline=None)
@given(HISTORIES)
def test_lookup_without_candidates_and_times(histories):
    tokens = packed(histories, timed=False)
    looked_up = tokens.keyed()
    assert looked_up.keys() == [ITEM, SIDE, TAGS, COUNTS]
    assert looked_up[ITEM].lengths().tolist() == [*tokens.lengths_B.tolist(), 0]
    history = tokens.history(
        {
            key: Jagged(looked_up[key].values().unsqueeze(1), looked_up[key].lengths())
            for key in tokens.ids
        }
    )
    assert history.items_LD.squeeze(1).tolist() == tokens.items_L.tolist()
    assert history.times_L is None
    assert history.asked_at_L is None
