"""Codes that are learned: choices, gradients, penalty, and what a bundle has of them."""

import pytest
import torch
from tables.conftest import reader
from torch.nn.functional import softmax

from features.errors import FeatureConfigError
from features.table_spec import DPQTable, MGQETable
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.initial import initial_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.packing import packed, unpack_into
from recsys.tables.schemes import build_scheme

READERS = (
    reader("a", num_ids=60),
    reader("b", 1, num_ids=40),
    reader("past.a", 2, namespace="a", num_ids=60, pooling="sum", many=True),
)
SPECS = {
    "vq": DPQTable(scheme="dpq", budget=700, num_parts=2, commitment=0.5),
    "sx": DPQTable(scheme="dpq", budget=700, num_parts=2, mode="sx"),
    "mgqe": MGQETable(scheme="mgqe", budget=700, num_parts=2, commitment=0.5),
}


def made(name, **options):
    spec = SPECS[name].model_copy(update=options)
    return build_scheme(LogicalTable("t", 8, spec, READERS))


def queries_of(scheme):
    [physical] = scheme.physical_tables
    return initial_rows(physical, seed=0).double().requires_grad_()


def read(scheme, queries_VD, ids):
    rows = scheme.remap(ids)
    return scheme.combine({x.name: queries_VD[rows[x.name]] for x in scheme.lookups}, ids)


def choice_by_hand(scheme, query_W, part, *, is_rare):
    keys_KW = (scheme.values_PKW if scheme.is_vq else scheme.keys_PKW)[part].detach()
    if is_rare:
        keys_KW = keys_KW[: scheme.sizes.layouts["a"].num_rare_choices]
    if scheme.is_vq:
        return int(((keys_KW - query_W) ** 2).sum(1).argmin())
    return int((keys_KW @ query_W).argmax())


@pytest.mark.parametrize("name", SPECS)
def test_vectors_gradients_and_penalty_are_those_written_out_by_hand(name):
    scheme = made(name).double().train()
    queries = queries_of(scheme)
    ids = {
        "a": torch.tensor([0, 5, 33, 5]),
        "b": torch.tensor([39, 1]),
        "past.a": torch.tensor([2]),
    }
    first = {"a": 0, "b": 60, "past.a": 0}
    num_frequent = {"a": 6, "b": 4, "past.a": 6} if name == "mgqe" else dict.fromkeys(first, 99)
    vectors = read(scheme, queries, ids)
    drawn = torch.Generator().manual_seed(1)
    weights = {k: torch.randn(v.shape, generator=drawn).double() for k, v in vectors.items()}
    loss = sum((vectors[k] * weights[k]).sum() for k in vectors)
    penalty = scheme.penalty()
    assert scheme.penalty() is None, "it is taken once"
    loss = loss if penalty is None else loss + penalty
    loss.backward()

    values = scheme.values_PKW.detach()
    of_queries, of_values = torch.zeros_like(queries), torch.zeros_like(values)
    of_keys, apart = torch.zeros_like(values), 0.0
    for key, of_reader in ids.items():
        for place, number in enumerate(of_reader.tolist()):
            row = first[key] + number
            for part in range(2):
                columns = slice(4 * part, 4 * part + 4)
                query = queries[row, columns].detach()
                code = choice_by_hand(scheme, query, part, is_rare=number >= num_frequent[key])
                value, gradient = values[part, code], weights[key][place, columns]
                assert torch.equal(vectors[key][place, columns].detach(), value)
                of_values[part, code] += gradient
                if scheme.is_vq:
                    of_queries[row, columns] += gradient + 2 * 0.5 * (query - value) / 7
                    of_values[part, code] += 2 * (value - query) / 7
                    apart += 1.5 * ((value - query) ** 2).sum() / 7
                else:
                    keys = scheme.keys_PKW[part].detach()
                    shares = softmax(keys @ query, 0)
                    of_scores = shares * (
                        values[part] @ gradient - shares @ values[part] @ gradient
                    )
                    of_queries[row, columns] += of_scores @ keys
                    of_keys[part] += of_scores[:, None] * query
    torch.testing.assert_close(queries.grad, of_queries)
    torch.testing.assert_close(scheme.values_PKW.grad, of_values)
    if scheme.is_vq:
        assert penalty.item() == pytest.approx(float(apart))
    else:
        assert penalty is None
        torch.testing.assert_close(scheme.keys_PKW.grad, of_keys)


def test_there_is_a_penalty_in_training_alone_and_one_for_all_lookups_of_a_step():
    scheme = made("vq")
    queries = queries_of(scheme).float()
    ids = [{"a": torch.arange(n), "b": torch.arange(0), "past.a": torch.arange(0)} for n in (3, 9)]
    separate = []
    for of_lookup in ids:
        read(scheme, queries, of_lookup)
        separate.append(scheme.penalty())
    for of_lookup in ids:
        read(scheme, queries, of_lookup)
    torch.testing.assert_close(scheme.penalty(), (3 * separate[0] + 9 * separate[1]) / 12)
    scheme.eval()
    read(scheme, queries, ids[0])
    assert scheme.penalty() is None
    scheme.train()
    with torch.no_grad():
        read(scheme, queries, ids[0])
    read(scheme, queries, dict.fromkeys(ids[0], torch.arange(0)))
    assert scheme.penalty() is None


def test_rare_ids_have_a_quarter_of_the_choices():
    scheme = made("mgqe", budget=4000)
    queries = 20 * queries_of(scheme).float().view(100, 2, 4)
    assert scheme.sizes.num_choices == 120
    is_rare = torch.arange(100) >= 6
    codes = scheme.codes(queries, is_rare)
    assert codes[is_rare].max() < 30
    assert (codes[~is_rare] >= 30).any()


@pytest.mark.parametrize("at_once", [1 << 24, 200])
def test_codes_do_not_depend_on_who_is_asked_with_them(at_once, monkeypatch):
    monkeypatch.setattr("recsys.tables.schemes.dpq._SCORES_AT_ONCE", at_once)
    scheme = made("mgqe")
    queries = queries_of(scheme).float().view(100, 2, 4)
    is_rare = torch.arange(100) % 3 > 0
    together = scheme.codes(queries, is_rare)
    alone = [scheme.codes(queries[i : i + 1], is_rare[i : i + 1]) for i in range(100)]
    assert torch.equal(together, torch.cat(alone))


# ------------------------------------------------------------------------------------ in a bundle
@pytest.mark.parametrize("name", SPECS)
def test_a_bundle_has_codes_and_values_alone_and_gives_the_same_vectors(name):
    config = TablesConfig(dense_max_bytes=10**9)
    table = LogicalTable("t", 8, SPECS[name], READERS)
    embedder = Embedder([table], config=config).eval()
    stored = packed(embedder)
    assert {n: t.dtype for n, t in stored.items()} == {
        "schemes.t.codes_of_a": torch.uint8,
        "schemes.t.codes_of_b": torch.uint8,
        "replicated.weights.t@values": torch.float32,
    }
    assert sum(t.nbytes for t in stored.values()) == embedder.num_bytes
    served = Embedder([table], config=TablesConfig(dense_max_bytes=10**9, seed=1), is_served=True)
    unpack_into(served, stored)
    served.eval()
    ids = {"a": torch.arange(60), "b": torch.arange(40), "past.a": torch.arange(60).flip(0)}
    before, after = (
        read(each.schemes["t"], w, ids)
        for each, w in (
            (embedder, embedder.replicated.weights["t"]),
            (served, served.replicated.weights["t@values"]),
        )
    )
    for key, vector in before.items():
        assert torch.equal(vector, after[key])


def test_bytes_by_hand():
    # 100 ids, 2 parts, 16 choices are 4 bits: 60 + 40 bytes; values: 16 of 8 numbers
    scheme = made("vq", budget=100 + 16 * 8 * 4)
    assert (scheme.sizes.num_choices, scheme.num_bytes) == (16, 612)
    # one more choice takes 5 bits: 75 + 50 bytes
    assert made("vq", budget=75 + 50 + 17 * 8 * 4 - 1).sizes.num_choices == 16
    assert made("vq", budget=75 + 50 + 17 * 8 * 4 + 3).sizes.num_choices == 17
    # 19 choices are 5 bits, 5 choices of rare ids are 3; 6 of 60 and 4 of 40 ids are frequent
    scheme = made("mgqe")
    of_codes = (6 * 2 * 5 + 54 * 2 * 3) // 8 + (4 * 2 * 5 + 36 * 2 * 3) // 8
    assert (scheme.sizes.num_choices, scheme.num_bytes) == (19, 19 * 8 * 4 + of_codes)
    assert scheme.num_training_bytes == 100 * 8 * 4 + 19 * 8 * 4
    assert made("sx").num_training_bytes == 100 * 8 * 4 + 2 * made("sx").sizes.num_choices * 8 * 4
    assert made("vq", budget="1MB").sizes.num_choices == 256


def test_mistakes_name_the_table():
    with pytest.raises(FeatureConfigError, match=r"tables.t.num_parts: .* got 3 for dim 8"):
        made("vq", num_parts=3)
    with pytest.raises(FeatureConfigError, match=r"tables.t.budget: .* allowed 60 bytes and up"):
        made("vq", budget=59)
    spec = SPECS["vq"]
    with pytest.raises(FeatureConfigError, match="dpq table needs a bounded number of ids"):
        build_scheme(LogicalTable("t", 8, spec, (reader("x", num_ids=None),)))


@pytest.mark.parametrize("name", SPECS)
def test_codes_are_picked_in_full_precision(name):
    """Else training would read other vectors than a bundle has."""
    scheme = made(name, budget=4000)
    queries = queries_of(scheme).float().detach().view(100, 2, 4)
    is_rare = torch.zeros(100, dtype=torch.bool)
    codes = scheme.codes(queries, is_rare)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(scheme.codes(queries, is_rare), codes)
