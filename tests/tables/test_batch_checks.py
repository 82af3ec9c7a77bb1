"""What no table can be read with is named before a kernel sees it."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables.conftest import example_batch, example_tables
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.columns import count_column
from features.errors import DataError, SchemaMismatchError
from recsys.tables.batch_checks import BatchChecks, ReadColumn
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder


@pytest.fixture(scope="module", params=[10**9, 0], ids=["replicated", "collections"])
def embedder(request):
    built = Embedder(example_tables(), config=TablesConfig(dense_max_bytes=request.param))
    built.materialize()
    return built


def changed(keyed, key, *, values=None, lengths=None):
    """The same ids with others, or other lengths, of one key."""
    of_keys = {k: [keyed[k].values(), keyed[k].lengths()] for k in keyed.keys()}  # noqa: SIM118
    for place, new in enumerate((values, lengths)):
        if new is not None:
            of_keys[key][place] = torch.as_tensor(new)
    return KeyedJaggedTensor(
        keys=list(of_keys),
        values=torch.cat([v for v, _ in of_keys.values()]),
        lengths=torch.cat([n for _, n in of_keys.values()]),
    )


@pytest.mark.parametrize(
    ("part", "key", "wrong", "allowed"),
    [
        ("ids", "user", 100, "0 ... 99, those of tables.user of 100 rows"),
        ("ids", "user", -1, "0 ... 99, those of tables.user of 100 rows"),
        ("ids", "b", 2**62, "0 ... 99, those of tables.shared of 300 rows"),
        ("ids", "dhe_one", 100, "0 ... 99, those of tables.dhe"),
        ("sequences", "history.item", 100, "0 ... 99, those of tables.item of 100 rows"),
        ("sequences", "past.tags", -(2**63), "0 ... 99, those of tables."),
    ],
)
def test_an_id_beyond_its_table_is_named(embedder, part, key, wrong, allowed):
    batch = example_batch()
    keyed = getattr(batch, part)
    ids, lengths = keyed[key].values().clone(), keyed[key].lengths().tolist()
    ids[-2:] = wrong
    owner = [example for example, count in enumerate(lengths) for _ in range(count)][-2]
    bad = replace(batch, **{part: changed(keyed, key, values=ids)})
    said = (
        f"features.{key}: id that its table does not have, got {wrong} in example {owner} of the "
        f"batch and 1 more; allowed {allowed}"
    )
    with pytest.raises(SchemaMismatchError, match=re.escape(said)):
        embedder(bad)
    embedder(batch)
    if part == "sequences":
        with pytest.raises(SchemaMismatchError, match=re.escape(said)):
            embedder.sequences(bad.sequences)


def test_all_wrong_features_are_named_at_once(embedder):
    batch = example_batch()
    ids = changed(batch.ids, "user", values=torch.full((8,), 1000))
    bad = replace(batch, ids=changed(ids, "e", values=torch.full_like(ids["e"].values(), 7)))
    with pytest.raises(SchemaMismatchError) as raised:
        embedder(bad)
    assert [re.match(r"features\.(\w+): ", m)[1] for m in raised.value.mistakes] == ["user", "e"]


def test_negative_lengths_are_named(embedder):
    batch = example_batch()
    lengths = batch.ids["b"].lengths().clone()
    lengths[3] = -2
    with pytest.raises(DataError) as raised:
        embedder(replace(batch, ids=changed(batch.ids, "b", lengths=lengths)))
    assert raised.value.mistakes[0].startswith(
        "features.b: negative number of ids, got -2 in example 3 of the batch; allowed 0 and more"
    )


def test_lengths_that_do_not_end_at_the_number_of_ids(embedder):
    batch = example_batch()
    lengths, ids = batch.ids["b"].lengths().clone(), len(batch.ids.values())
    lengths[5] += 4
    said = f"batch.ids: lengths, or offsets, do not end at the number of ids, got {ids + 4}; "
    with pytest.raises(DataError, match=re.escape(said + f"allowed {ids}")):
        embedder(replace(batch, ids=changed(batch.ids, "b", lengths=lengths)))


def test_offsets_that_do_not_end_at_the_number_of_ids():
    keyed = KeyedJaggedTensor(["a"], torch.arange(4), offsets=torch.tensor([0, 1, 3]))
    checks = BatchChecks({"a": ReadColumn(4, "a", 4)})
    with pytest.raises(DataError, match=r"batch.ids: lengths, or offsets, .* got 3; allowed 4"):
        checks.check_keyed(keyed, num_examples=2, where="batch.ids")
    keyed = KeyedJaggedTensor(["a"], torch.arange(3), offsets=torch.tensor([0, 1, 3]))
    checks.check_keyed(keyed, num_examples=2, where="batch.ids")


def test_lengths_of_another_number_of_examples():
    keyed = KeyedJaggedTensor(["a", "b"], torch.arange(3), lengths=torch.ones(3, dtype=torch.int64))
    checks = BatchChecks({"a": ReadColumn(4, "a", 4)})
    with pytest.raises(DataError, match=r"got 3 for 2 keys and 2 examples; allowed 4;"):
        checks.check_keyed(keyed, num_examples=2, where="batch.ids")


def test_a_cached_length_per_key_that_is_none():
    ones = torch.ones(4, dtype=torch.int64)
    keyed = KeyedJaggedTensor(["a", "b"], torch.arange(4), lengths=ones, length_per_key=[1, 3])
    with pytest.raises(DataError, match=r"features.a: length_per_key .* got 1; allowed 2;"):
        BatchChecks({}).check_keyed(keyed, num_examples=2, where="batch.ids")


def test_missing_ids_are_named_as_such():
    keyed = KeyedJaggedTensor(
        ["a"], torch.tensor([0.0, torch.nan]), lengths=torch.ones(2, dtype=torch.int64)
    )
    said = "batch.ids: ids are no whole numbers, got torch.float32 with 1 missing; allowed torch."
    with pytest.raises(DataError, match=re.escape(said)):
        BatchChecks({}).check_keyed(keyed, num_examples=2, where="batch.ids")


def test_lists_of_events_that_do_not_add_up(embedder):
    batch, counts = example_batch(), count_column("past.tags")
    more = batch.sequences[counts].values().clone()
    more[0] += 1
    first = int(batch.sequences[counts].lengths().nonzero()[0])
    bad = replace(batch, sequences=changed(batch.sequences, counts, values=more))
    with pytest.raises(DataError, match=rf"features.past.tags: .* in example {first} of the batch"):
        embedder(bad)
    keys = [key for key in batch.sequences.keys() if key != counts]  # noqa: SIM118
    without = KeyedJaggedTensor(
        keys=keys,
        values=torch.cat([batch.sequences[key].values() for key in keys]),
        lengths=torch.cat([batch.sequences[key].lengths() for key in keys]),
    )
    with pytest.raises(DataError, match=rf"features.past.tags: .* got no '{counts}' in the batch"):
        embedder(replace(batch, sequences=without))


@pytest.mark.parametrize("entries", [[0, 1, 8], [0, -1, 2], [0, 1]])
def test_histories_that_are_none_of_the_batch(embedder, entries):
    histories_B = torch.tensor([*entries, *range(8)])[:8] if len(entries) > 2 else torch.arange(2)
    got = next((str(n) for n in entries if not 0 <= n < 8), "2 entries")
    with pytest.raises(DataError, match=rf"batch.histories_B: .* got {got}; allowed 0 ... 7"):
        embedder(replace(example_batch(), histories_B=histories_B))


@given(
    lists=st.lists(
        st.lists(st.lists(st.integers(-2, 6), max_size=3), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    ),
    sizes=st.lists(st.one_of(st.none(), st.integers(1, 6)), min_size=4, max_size=4),
    dtype=st.sampled_from([torch.int64, torch.int32]),
)
@settings(max_examples=150, deadline=None)
def test_the_same_as_a_loop_over_ids(lists, sizes, dtype):
    columns = {str(n): ReadColumn(sizes[n], "t", 1) for n in range(len(lists))}
    keyed = KeyedJaggedTensor(
        keys=list(columns),
        values=torch.tensor([i for k in lists for e in k for i in e], dtype=dtype),
        lengths=torch.tensor([len(e) for k in lists for e in k]),
    )
    wrong = {
        key: [(example, i) for example, ids in enumerate(of_key) for i in ids if not known(i, size)]
        for key, of_key, size in zip(columns, lists, sizes, strict=False)
    }
    expected = [
        f"features.{key}: id that its table does not have, got {found[0][1]} in example "
        f"{found[0][0]} of the batch"
        for key, found in wrong.items()
        if found
    ]
    try:
        BatchChecks(columns).check_keyed(keyed, num_examples=3, where="batch.ids")
        said = []
    except SchemaMismatchError as error:
        said = [re.match(r"(.* of the batch)", mistake)[1] for mistake in error.mistakes]
    assert said == expected


def known(number, size):
    return number >= 0 and (size is None or number < size)


def test_no_examples_and_no_ids():
    none = torch.zeros(0, dtype=torch.int64)
    keyed = KeyedJaggedTensor(["a"], none, lengths=none)
    BatchChecks({"a": ReadColumn(4, "a", 4)}).check_keyed(keyed, num_examples=0, where="batch.ids")


def test_what_no_table_reads_may_be_any_number():
    keyed = KeyedJaggedTensor(
        ["h.@time"], torch.tensor([-5, 2**60]), lengths=torch.ones(2, dtype=torch.int64)
    )
    BatchChecks({}).check_keyed(keyed, num_examples=2, where="batch.sequences")
