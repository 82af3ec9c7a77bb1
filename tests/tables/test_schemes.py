import inspect
import itertools
import json
import math
import typing

import numpy as np
import pytest
import torch
from tables.conftest import SPECS, WARM_UPS, reader, with_plan

from features.table_spec import (
    DPQTable,
    FullTable,
    HashedNetTable,
    HashTable,
    MGQETable,
    MixedDimTable,
    MultihashTable,
    MultiplexedTable,
    OptEmbedTable,
    QRTable,
    RobeTable,
    SizedTable,
    StagedTable,
    StoredTable,
    TTTable,
    UnifiedTable,
)
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.schemes import build_scheme

ALL = SPECS | WARM_UPS
# Most of their numbers are zero.
DENSE = [name for name in ALL if name != "masked"]


def table(spec, *readers, dim=4):
    return with_plan(LogicalTable("table", dim, spec, readers))


def vectors_of(scheme, ids, *, seed=0):
    """What ids read at the start, by reader."""
    scheme.eval()
    weights = {t.name: initial_rows(t, seed=seed) for t in scheme.physical_tables}
    rows = scheme.remap(ids)
    looked_up = {x.name: weights[x.table][rows[x.name]] for x in scheme.lookups}
    return scheme.combine(looked_up, ids)


def test_every_scheme_of_the_feature_file_is_tested():
    union = typing.get_args(StoredTable)[0]
    names = {inspect.get_annotations(spec)["scheme"] for spec in typing.get_args(union)}
    assert {typing.get_args(eval(n, vars(typing)))[0] for n in names} == {
        spec.scheme for spec in ALL.values()
    }


@pytest.mark.parametrize("name", ALL)
def test_rows_lie_in_the_physical_tables_and_widths_are_as_announced(name):
    readers = (reader("a", 0, num_ids=30), reader("b", 1, num_ids=20))
    scheme = build_scheme(table(ALL[name], *readers))
    ids = {"a": torch.arange(30), "b": torch.tensor([], dtype=torch.int64)}
    rows = scheme.remap(ids)
    sizes = {t.name: t.num_rows for t in scheme.physical_tables}
    assert set(rows) == {lookup.name for lookup in scheme.lookups}
    for lookup in scheme.lookups:
        assert len(rows[lookup.name]) == len(ids[lookup.reader])
        assert ((rows[lookup.name] >= 0) & (rows[lookup.name] < sizes[lookup.table])).all()
    assert {k: v.shape for k, v in vectors_of(scheme, ids).items()} == {
        r.key: (len(ids[r.key]), scheme.widths[r.key]) for r in readers
    }


@pytest.mark.parametrize("name", DENSE)
def test_readers_of_one_namespace_read_the_same_vectors_and_features_do_not(name):
    readers = (
        reader("item", 0),
        reader("other", 1),
        reader("history.item", 2, namespace="item", pooling="none", many=True),
    )
    scheme = build_scheme(table(ALL[name], *readers))
    vectors = vectors_of(scheme, dict.fromkeys(("item", "other", "history.item"), torch.arange(9)))
    assert torch.equal(vectors["item"], vectors["history.item"])
    assert not torch.isclose(vectors["item"], vectors["other"]).all(1).all()


SHAREABLE = [n for n, spec in SPECS.items() if isinstance(spec, MultiplexedTable)]
# Edits of a table that send ids elsewhere.
CHANGES = [
    {"seed": 1},
    {"multiplexed": False},
    {"num_tables": 2},
    {"num_hashes": 3},
    {"weighted": False},
    {"num_chunks": 4},
    {"block": 3},
]
# Of a staged table the plan has the size.
SIZED = [
    name
    for name, spec in SPECS.items()
    if isinstance(spec, SizedTable) and not isinstance(spec, StagedTable)
]


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("budget", [10_000, 40_003])
def test_a_budget_is_spent_but_for_less_than_one_more_size_takes(name, budget):
    spec = type(ALL[name]).model_validate({**_options(name), "budget": budget})
    scheme = build_scheme(
        table(spec, reader("a", 0, num_ids=900), reader("b", 1, num_ids=300), dim=16)
    )
    assert scheme.num_bytes <= budget
    # What one row, one more rank, one more hidden unit, or one more width takes; codes have at
    # most 8 bits.
    steps = {"tt": 0.4, "dhe": 0.3, "mixed_dim": 0.5, "dpq": 0.6, "mgqe": 0.6}
    assert scheme.num_bytes > budget * (1 - steps.get(spec.scheme, 0)) - 16 * 4 * 4
    rows = type(spec).model_validate({**_options(name), "rows": budget // 64})
    equal = build_scheme(
        table(rows, reader("a", 0, num_ids=900), reader("b", 1, num_ids=300), dim=16)
    )
    assert equal.num_bytes == pytest.approx(scheme.num_bytes, abs=64)


def _options(name):
    return ALL[name].model_dump(exclude={"rows", "budget"}, exclude_none=True)


# What is left after a merge has been trained, and chosen by its size.
UNTRAINED = [name for name in DENSE if name != "merged"]


@pytest.mark.parametrize("name", UNTRAINED)
def test_vectors_start_with_one_variance_whatever_the_scheme(name):
    spec = ALL[name]
    if isinstance(spec, SizedTable):
        spec = type(spec).model_validate({**_options(name), "rows": 600})
    readers = (reader("a", 0, num_ids=2000), reader("b", 1, num_ids=1000))
    scheme = build_scheme(table(spec, *readers, dim=16))
    vectors = vectors_of(scheme, {"a": torch.arange(2000), "b": torch.arange(1000)})
    for vectors_LD in vectors.values():
        among_ids = (vectors_LD - vectors_LD.mean(0)).std().item()
        assert among_ids == pytest.approx(0.05 / math.sqrt(3), rel=0.15)
        assert abs(vectors_LD.mean().item()) < 0.01


# The others estimate the gradients of what they keep and drop, or pick.
WITH_GRADIENTS = [
    name for name, spec in ALL.items() if not isinstance(spec, OptEmbedTable | DPQTable | MGQETable)
]


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_gradients_of_all_that_is_trained_are_those_of_differences(name):
    readers = (reader("a", 0, num_ids=12), reader("b", 1, num_ids=8))
    scheme = build_scheme(table(ALL[name], *readers)).double()
    ids = {"a": torch.tensor([3, 3, 0, 11]), "b": torch.tensor([7, 1])}
    rows = scheme.remap(ids)
    weights = [initial_rows(t, seed=1).double().requires_grad_() for t in scheme.physical_tables]
    own = list(scheme.parameters())

    def vectors(*tensors):
        of_tables = dict(zip([t.name for t in scheme.physical_tables], tensors, strict=False))
        looked_up = {x.name: of_tables[x.table][rows[x.name]] for x in scheme.lookups}
        return tuple(scheme.combine(looked_up, ids).values())

    assert torch.autograd.gradcheck(vectors, (*weights, *own), eps=1e-5, atol=1e-6)
    sum(v.sum() for v in vectors(*weights)).backward()
    assert all(p.grad is not None for p in (*weights, *own))


@pytest.mark.parametrize("name", SHAREABLE)
def test_features_share_all_of_a_multiplexed_table_and_nothing_of_a_separate_one(name):
    """By the gradient: the numbers that one feature's ids reach."""

    def reached(multiplexed):
        spec = type(ALL[name]).model_validate(
            {**_options(name), "rows": 30, "multiplexed": multiplexed}
        )
        readers = (reader("a", 0, num_ids=300), reader("b", 1, num_ids=200))
        scheme = build_scheme(table(spec, *readers))
        weights = {t.name: initial_rows(t, seed=1).requires_grad_() for t in scheme.physical_tables}
        trained = [*weights.values(), *scheme.parameters()]
        ids = {"a": torch.arange(300), "b": torch.arange(200)}
        rows = scheme.remap(ids)
        looked_up = {x.name: weights[x.table][rows[x.name]] for x in scheme.lookups}
        vectors = scheme.combine(looked_up, ids)
        found = []
        for of_reader in vectors.values():
            grads = torch.autograd.grad(of_reader.pow(2).sum(), trained, retain_graph=True)
            found.append(torch.cat([grad.flatten() != 0 for grad in grads]))
        return found

    one, other = reached(multiplexed=True)
    assert (one & other).float().mean() > 0.5
    one, other = reached(multiplexed=False)
    assert not (one & other).any()
    assert (one | other).float().mean() > 0.9
    assert 1.2 < one.sum() / other.sum() < 1.9


def test_full_gives_features_rows_of_their_own():
    scheme = build_scheme(table(FullTable(), reader("a", 0, num_ids=3), reader("b", 1, num_ids=4)))
    rows = scheme.remap({"a": torch.arange(3), "b": torch.arange(4)})
    assert rows["a"].tolist() + rows["b"].tolist() == list(range(7))
    assert scheme.physical_tables[0].num_rows == 7


def test_hash_shares_rows_in_proportion_and_leaves_none_over():
    readers = [reader(str(n), i, num_ids=n) for i, n in enumerate((600, 300, 99, 1))]
    scheme = build_scheme(table(HashTable(scheme="hash", rows=100), *readers))
    rows = scheme.remap({r.key: torch.arange(5000) for r in readers})
    used = {r.key: rows[r.key].unique().tolist() for r in readers}
    assert [len(used[r.key]) for r in readers] == [59, 30, 10, 1]
    assert sorted(itertools.chain(*used.values())) == list(range(100))


def test_unified_probes_are_independent_and_keep_their_rows_when_features_come_and_go():
    spec = UnifiedTable(scheme="unified", rows=1000)
    both = build_scheme(table(spec, reader("x", 0), reader("a", 1, probes=2)))
    alone = build_scheme(table(spec, reader("a", 0, probes=2)))
    ids = torch.arange(100)
    rows = both.remap({"x": ids, "a": ids})
    assert rows["a"].tolist() == alone.remap({"a": ids})["a"].tolist()
    assert (rows["a"] == rows["a@1"]).float().mean() < 0.05
    vectors = {"x": torch.zeros(1, 4), "a": torch.ones(1, 4), "a@1": torch.full((1, 4), 2.0)}
    assert both.combine(vectors, {})["a"].tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]]


def test_probes_take_turns_in_several_tables():
    spec = UnifiedTable(scheme="unified", rows=100, num_tables=3)
    readers = (reader("a", 0, probes=2), reader("b", 1, probes=3), reader("h", 2, namespace="a"))
    scheme = build_scheme(table(spec, *readers))
    assert [(t.num_rows, t.dim) for t in scheme.physical_tables] == [(33, 4)] * 3
    turns = {lookup.name: lookup.table for lookup in scheme.lookups}
    assert turns == {
        "a": "table@0",
        "a@1": "table@1",
        "b": "table@2",
        "b@1": "table@0",
        "b@2": "table@1",
        "h": "table@0",
    }


# Of 120 rows, a golden section of the codes would meet each code it reaches 20 times.
@pytest.mark.parametrize(("multiplexed", "num_rows"), [(True, 120), (True, 130), (False, 130)])
def test_quotient_and_remainder_tell_all_ids_apart_where_there_is_room(multiplexed, num_rows):
    readers = (reader("a", 0, num_ids=700), reader("b", 1, num_ids=300))
    spec = QRTable(scheme="qr", rows=num_rows, multiplexed=multiplexed)
    rows = build_scheme(table(spec, *readers)).remap(
        {"a": torch.arange(700), "b": torch.arange(300)}
    )
    pairs = list(
        zip(
            torch.cat([rows["a@quotient"], rows["b@quotient"]]).tolist(),
            torch.cat([rows["a@remainder"], rows["b@remainder"]]).tolist(),
            strict=True,
        )
    )
    assert len(set(pairs)) == 1000
    crowded = build_scheme(table(QRTable(scheme="qr", rows=20), *readers))
    rows = crowded.remap({"a": torch.arange(700), "b": torch.arange(300)})
    assert rows["a@quotient"].unique().tolist() == list(range(10))
    assert rows["a@remainder"].unique().tolist() == list(range(10))


def test_a_weighted_sum_of_rows():
    scheme = build_scheme(table(MultihashTable(scheme="multihash", rows=40), reader("a")))
    vectors = {
        "a@0": torch.tensor([[1.0, 2, 3, 4]]),
        "a@1": torch.tensor([[10.0, 20, 30, 40]]),
        "a@2": torch.tensor([[3.0, -0.5]]),
    }
    assert scheme.combine(vectors, {"a": torch.tensor([0])})["a"].tolist() == [[-2, -4, -6, -8]]


def test_weights_belong_to_ids_where_these_are_few():
    spec = MultihashTable(scheme="multihash", rows=40)
    for num_ids, is_by_id in ((30, True), (10_000, False), (None, False)):
        scheme = build_scheme(table(spec, reader("a", num_ids=num_ids)))
        assert scheme.row_meaning()["is_weighted_by_id"] == is_by_id
        ids = torch.arange(30)
        assert (scheme.remap({"a": ids})["a@2"].tolist() == ids.tolist()) == is_by_id


def test_windows_on_a_circular_array():
    spec = RobeTable(scheme="robe", rows=3, block=3)
    scheme = build_scheme(table(spec, reader("a"), dim=4))
    with torch.no_grad():
        scheme.numbers_S.copy_(torch.arange(12.0))
    for vector in scheme.combine({}, {"a": torch.arange(100)})["a"].tolist():
        assert vector[1] == (vector[0] + 1) % 12
        assert vector[2] == (vector[0] + 2) % 12


def test_hashed_numbers_are_alike_often():
    scheme = build_scheme(table(HashedNetTable(scheme="hashednet", rows=8), reader("a"), dim=8))
    with torch.no_grad():
        scheme.numbers_S.copy_(torch.arange(64.0))
    vectors = scheme.combine({}, {"a": torch.arange(2000)})["a"]
    counts = torch.bincount(vectors.flatten().long(), minlength=64)
    assert counts.float().std() < 1.5 * math.sqrt(16_000 / 64)
    neighbours = vectors[:, 1:] == vectors[:, :-1] + 1
    assert neighbours.float().mean() == pytest.approx(1 / 64, abs=0.005)


def test_a_tensor_train_is_the_product_of_its_cores():
    scheme = build_scheme(table(TTTable(scheme="tt", rows=40), reader("a", num_ids=60), dim=8))
    ids = {"a": torch.arange(60)}
    weights = {t.name: initial_rows(t, seed=0).double() for t in scheme.physical_tables}
    rows = scheme.remap(ids)
    found = scheme.combine({x.name: weights[x.table][rows[x.name]] for x in scheme.lookups}, ids)
    (n1, n2, n3), (d1, d2, d3), r = scheme.radix, scheme.factors, scheme.rank
    assert n1 * n2 * n3 >= 60
    assert d1 * d2 * d3 == 8
    for number in range(60):
        i, j, k = np.unravel_index(number, (n1, n2, n3))
        expected = np.einsum(
            "ar,rbs,sc->abc",
            weights["table@0"][i].view(d1, r),
            weights["table@1"][j].view(r, d2, r),
            weights["table@2"][k].view(r, d3),
        )
        np.testing.assert_allclose(found["a"][number], expected.ravel())


def test_mixed_widths_fall_with_the_number_of_ids():
    readers = [reader(key, num_ids=n) for key, n in (("a", 10), ("b", 100), ("c", 5000))]
    tight = MixedDimTable(scheme="mixed_dim", budget=60_000)
    scheme = build_scheme(table(tight, *readers, dim=16))
    dims = {t.name: t.dim for t in scheme.physical_tables}
    assert 16 == dims["table@a"] >= dims["table@b"] > dims["table@c"] >= 1
    everything = MixedDimTable(scheme="mixed_dim", budget="1MB")
    whole = build_scheme(table(everything, *readers, dim=16))
    assert whole.num_bytes == 5110 * 16 * 4
    assert not list(whole.parameters())


@pytest.mark.parametrize("name", ALL)
def test_equal_meaning_of_rows_is_equal_remapping(name):
    """What a checkpoint is refused by: any change that sends an id to another row."""
    readers = [reader("a", 0, num_ids=30), reader("b", 1, num_ids=20)]
    ids = {"a": torch.arange(30), "b": torch.arange(20)}

    def described(spec, readers):
        scheme = build_scheme(table(spec, *readers))
        rows = scheme.remap(ids)
        rows = {x.name: (x.table, rows[x.name].tolist()) for x in scheme.lookups}
        if not scheme.lookups:  # by the numbers that ids pick of those the scheme has itself
            rows = {k: v.tolist() for k, v in scheme.combine({}, ids).items()}
        rows = {"scheme": spec.scheme, **rows}
        meaning = scheme.row_meaning()
        assert json.loads(json.dumps(meaning)) == meaning
        return meaning, rows

    base = described(ALL[name], readers)
    others = [described(spec, readers) for spec in ALL.values()]
    others.append(described(ALL[name], readers[::-1]))
    of_scheme = type(ALL[name])
    others += [
        described(of_scheme.model_validate({**_options(name), "rows": 40, **change}), readers)
        for change in CHANGES
        if change.keys() <= of_scheme.model_fields.keys()
    ]
    for meaning, rows in others:
        assert (meaning == base[0]) == (rows == base[1])


@pytest.mark.parametrize("name", ALL)
def test_what_is_made_of_rows_is_its_rows_side_by_side(name):
    """Migration copies such rows by id, and reads all others through their scheme."""
    of_reader = reader("a", 0, num_ids=30)
    scheme = build_scheme(table(ALL[name], of_reader, reader("b", 1, num_ids=20)))
    for parameter in scheme.parameters():
        torch.nn.init.uniform_(parameter, 0.1, 0.9)
    ids = {"a": torch.arange(30), "b": torch.arange(20)}
    found = vectors_of(scheme, ids)["a"]
    weights = {t.name: initial_rows(t, seed=0) for t in scheme.physical_tables}
    rows = scheme.remap(ids)
    own = [x for x in scheme.lookups if x.reader == "a"]
    if scheme.is_made_of_rows:
        side_by_side = torch.cat([weights[x.table][rows[x.name]] for x in own], 1)
        torch.testing.assert_close(found, side_by_side[:, : found.shape[1]])
