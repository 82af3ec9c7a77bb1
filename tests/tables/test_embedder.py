from dataclasses import replace

import pytest
import torch
from tables.conftest import (
    OF_SCHEMES,
    SHARDED,
    example_batch,
    example_tables,
    reader,
    with_plan,
)
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.columns import TAKEN_NAMES, count_column
from features.errors import FeatureConfigError, RunConfigError
from features.load import parse_feature_set
from features.table_spec import FullTable
from recsys.tables import embedder as embedder_module
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.logical import OUTPUT, LogicalTable, with_output

WIDTHS = {"user": 8, "item": 8, "a": 8, "b": 4, "c": 4, "d": 4, "e": 4, "past.tags": 8}
WIDTHS |= {"movie@attention": 4, "movie@representation": 8} | dict.fromkeys(OF_SCHEMES, 8)


def table_of(parameter):
    """The physical table of a parameter wherever it is stored, or the parameter of a scheme."""
    if parameter.startswith("schemes."):
        return parameter
    return parameter.removesuffix(".weight").split(".")[-1]


def embedder(dense_max_bytes):
    built = Embedder(example_tables(), config=TablesConfig(dense_max_bytes=dense_max_bytes))
    built.materialize()
    return built


@pytest.fixture(params=[10**9, 0], ids=["replicated", "collections"])
def any_store(request):
    return embedder(request.param)


def test_fields_come_in_file_order_with_their_widths(any_store, batch):
    embedded = any_store(batch)
    assert {k: v.shape for k, v in embedded.fields.items()} == {
        k: (8, width) for k, width in WIDTHS.items()
    }
    assert list(embedded.fields) == list(WIDTHS)
    movies = ["history.movie@attention", "history.movie@representation"]
    assert list(embedded.sequences) == ["history.item", "history.genre", *movies]
    for history in embedded.sequences.values():
        assert history.lengths_B.tolist() == batch.sequences["history.item"].lengths().tolist()


def test_roles_read_the_same_ids(any_store, batch):
    embedded, weights = any_store(batch), weights_of(any_store)
    for role in ("attention", "representation"):
        weight = weights[f"movie@{role}"]
        ids = batch.ids["movie"].values()
        assert torch.equal(embedded.fields[f"movie@{role}"], weight[ids])
        past = batch.sequences["history.movie"].values()
        assert torch.equal(embedded.sequences[f"history.movie@{role}"].values_LD, weight[past])


def weights_of(built):
    return {
        n.split(".")[-2 if n.endswith("weight") else -1]: p for n, p in built.named_parameters()
    }


def test_lookups_equal_a_loop_over_examples(any_store, batch):
    embedded = any_store(batch)
    weights = weights_of(any_store)
    for key in "user", "b", "e":
        scheme = any_store.schemes[any_store.scheme_of[key]]
        jagged = batch.ids[key]
        ids, offset = jagged.values(), 0
        for row, length in enumerate(jagged.lengths().tolist()):
            one = {r.key: ids[:0] for r in scheme.table.readers}
            one[key] = ids[offset : offset + length]
            offset += length
            rows = weights[scheme.physical_tables[0].name][scheme.remap(one)[key]]
            pooled = rows.sum(0)
            if any_store.readers[key].pooling == "mean" and length:
                pooled = pooled / length
            torch.testing.assert_close(embedded.fields[key][row], pooled)


@pytest.mark.parametrize("seed", range(3))
def test_lists_of_events_equal_a_loop_over_events(any_store, seed):
    batch = example_batch(seed)
    embedded, weights = any_store(batch), weights_of(any_store)
    counts = {
        key: batch.sequences[count_column(key)].to_dense() for key in ("past.tags", "history.genre")
    }
    assert 0 in torch.cat(counts["past.tags"])
    assert [] in [of_example.tolist() for of_example in counts["past.tags"]]

    def event_vectors(key, how):
        """By example, a vector per event."""
        scheme = any_store.schemes[any_store.scheme_of[key]]
        weight, ids = weights[scheme.physical_tables[0].name], batch.sequences[key].values()
        start, found = 0, []
        for of_example in counts[key]:
            found.append([])
            for count in of_example.tolist():
                remapped = scheme.remap({key: ids[start : start + count]})
                rows = torch.cat([weight[r] for r in remapped.values()], 1).sum(0)
                found[-1].append(rows / max(count, 1) if how == "mean" else rows)
                start += count
        return found

    zero = torch.zeros(8)
    for row, vectors in enumerate(event_vectors("past.tags", "sum")):
        expected = torch.stack([*vectors, zero]).sum(0) / max(len(vectors), 1)
        torch.testing.assert_close(embedded.fields["past.tags"][row], expected)
    expected = [v for vectors in event_vectors("history.genre", "mean") for v in vectors]
    history = embedded.sequences["history.genre"]
    torch.testing.assert_close(history.values_LD, torch.stack(expected))
    alone = any_store.sequences(batch.sequences)["history.genre"]
    assert torch.equal(alone.values_LD, history.values_LD)
    assert torch.equal(alone.lengths_B, history.lengths_B)


def test_all_lists_of_events_are_empty(any_store):
    zeros, two = torch.zeros(2, dtype=torch.int64), torch.tensor([2, 0])
    keyed = KeyedJaggedTensor(
        keys=["history.genre.@count", "history.genre"],
        values=zeros,
        lengths=torch.cat([two, zeros]),
    )
    found = any_store.sequences(keyed)["history.genre"]
    assert found.values_LD.tolist() == [[0.0] * 4] * 2
    assert found.lengths_B.tolist() == [2, 0]


def test_both_stores_start_from_the_same_values_and_give_the_same_gradients(batch):
    gradients = []
    for dense_max_bytes in 10**9, 0:
        built = embedder(dense_max_bytes)
        embedded = built(batch)
        histories = [history.values_LD for history in embedded.sequences.values()]
        vectors = [*embedded.fields.values(), *histories]
        loss = sum((v * torch.arange(1.0, v.numel() + 1).view(v.shape)).sum() for v in vectors)
        loss.backward()
        gradients.append({table_of(n): (p.detach(), p.grad) for n, p in built.named_parameters()})
    one, other = gradients
    assert one.keys() == other.keys()
    assert {"user", "tiny", "turns@1", "tt@2", "schemes.robe.numbers_S"} < one.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name])


def test_a_sharded_table_whose_rows_fbgemm_cannot_read_is_named_with_the_way_out():
    odd = LogicalTable("odd", 6, FullTable(), (reader("x"),))
    with pytest.raises(
        FeatureConfigError, match=r"tables.odd: .* got a sharded table of 6; .* 2400 "
    ):
        Embedder([odd], config=TablesConfig(dense_max_bytes=0))
    assert Embedder([odd], config=TablesConfig()).widths == {"x": 6}


def test_readers_without_ids_are_left_out(any_store, batch):
    batch.ids = None
    embedded = any_store(batch)
    assert list(embedded.fields) == ["past.tags"]
    movies = ["history.movie@attention", "history.movie@representation"]
    assert list(embedded.sequences) == ["history.item", "history.genre", *movies]


@pytest.mark.parametrize("name", SHARDED)
@pytest.mark.parametrize("dense_max_bytes", [10**9, 0])
def test_what_is_asked_for_alone_is_as_in_the_whole_batch(name, dense_max_bytes, batch):
    probes = 2 if name == "turns" else 1
    of_users = LogicalTable("user", 8, SHARDED[name], (reader("user", 0, probes=probes),))
    of_items = LogicalTable("item", 8, FullTable(), (reader("item", 1),))
    built = Embedder(
        [with_plan(of_users, cut=True), of_items],
        config=TablesConfig(dense_max_bytes=dense_max_bytes),
    )
    built.materialize()
    with torch.no_grad():
        whole = built.eval()(batch).fields
        for key in ("user", "item"):
            alone = built(batch, keys=[key]).fields
            assert list(alone) == [key]
            torch.testing.assert_close(alone[key], whole[key], msg=key)


def test_the_catalogue_has_the_vector_of_every_id_with_gradient():
    built = embedder(10**9)
    vectors = built.catalogue("history.item", num_ids=100)
    torch.testing.assert_close(vectors, built.replicated.weights["item"])
    vectors[3].sum().backward()
    assert built.replicated.weights["item"].grad[3].tolist() == [1.0] * 8


def test_the_catalogue_of_a_sharded_table_is_refused_with_the_way_out():
    with pytest.raises(RunConfigError, match=r"tables.dense_max_bytes to 3200 or more"):
        embedder(0).catalogue("item", num_ids=100)
    assert embedder(10**9).check_catalogue("item") is None


@pytest.mark.parametrize("part", [1 << 16, 100, 33, 1])
def test_the_catalogue_of_a_sharded_table_without_gradient(monkeypatch, part):
    monkeypatch.setattr(embedder_module, "_CATALOGUE_PART", part)
    expected = embedder(10**9).catalogue("history.item", num_ids=100)
    with torch.no_grad():
        found = embedder(0).catalogue("history.item", num_ids=100)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("key", ["user", "item", "a", "c", "d"])
def test_the_catalogue_of_every_scheme_is_what_batches_read(batch, key):
    built = embedder(10**9)
    vectors_VD = built.catalogue(key, num_ids=100)
    torch.testing.assert_close(built(batch).fields[key], vectors_VD[batch.ids[key].values()])


def test_sequences_alone_are_looked_up_as_in_a_batch(any_store, batch):
    expected = any_store(batch).sequences["history.item"]
    ids, lengths = (batch.sequences["history.item"].values(), expected.lengths_B)
    keyed = KeyedJaggedTensor(
        keys=["item", "history.@time", "history.item"],
        values=torch.cat([torch.tensor([3, 5, 3, 10**12]), ids]),
        lengths=torch.cat([torch.tensor([0, 3, *[0] * 12, 1, 0]), lengths]),
    )
    found = any_store.sequences(keyed)
    assert found.keys() == {"item", "history.item"}
    torch.testing.assert_close(found["history.item"].values_LD, expected.values_LD)
    assert torch.equal(found["history.item"].lengths_B, lengths)
    assert found["item"].lengths_B.tolist() == [0, 3, 0, 0, 0, 0, 0, 0]
    with torch.no_grad():
        items_VD = any_store.catalogue("item", num_ids=100)
    torch.testing.assert_close(found["item"].values_LD, items_VD[[3, 5, 3]])


@pytest.mark.parametrize("dense_max_bytes", [10**9, 0])
def test_an_output_table_is_one_more_of_the_same_kind_with_values_of_its_own(dense_max_bytes):
    tables = with_output(tuple(example_tables()), of="history.item")
    *others, item, output = (tables[0], *tables[2:-1], tables[1], tables[-1])
    assert [t.name for t in others] == [t.name for t in example_tables() if t.name != "item"]
    assert (output.name, output.dim, output.spec) == ("item_output", item.dim, item.spec)
    assert [reader.key for reader in output.readers] == [OUTPUT]
    built = Embedder(tables, config=TablesConfig(dense_max_bytes=dense_max_bytes))
    built.materialize()
    with torch.no_grad():
        vectors, items = (built.catalogue(key, num_ids=100) for key in (OUTPUT, "history.item"))
    assert vectors.shape == items.shape
    assert (vectors != items).float().mean() > 0.99
    assert vectors.std() == pytest.approx(items.std().item(), rel=0.2)


def test_an_output_table_takes_no_name_that_is_taken():
    user, *others = example_tables()
    with pytest.raises(FeatureConfigError, match=r"tables.item_output: .* rename it, or set"):
        with_output((replace(user, name="item_output"), *others), of="history.item")


def test_sharding_of_an_unknown_table_is_refused():
    config = TablesConfig(dense_max_bytes=0, sharding={"usr": "row_wise"})
    with pytest.raises(RunConfigError, match=r"tables.sharding.usr: .*did you mean 'user'\?"):
        Embedder(example_tables(), config=config)


def test_one_example_without_any_id_of_a_list():
    batch = example_batch(seed=3, num_examples=1)
    assert torch.isfinite(embedder(0)(batch).fields["b"]).all()


def test_names_that_torch_needs_for_itself_are_refused_in_feature_files():
    containers = {*dir(nn.ModuleDict()), *dir(nn.ParameterDict())}
    assert {name for name in containers if not name.startswith("_")} <= TAKEN_NAMES
    with pytest.raises(FeatureConfigError, match=r"got 'type'; choose another, such as 'type_id'"):
        parse_feature_set(
            "sources: {events: a.parquet}\nfeatures: [{name: type, kind: categorical}]", name="f"
        )
