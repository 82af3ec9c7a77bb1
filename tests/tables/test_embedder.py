import pytest
import torch
from tables.conftest import example_batch, example_tables
from torch import nn

from features.columns import TAKEN_NAMES
from features.errors import FeatureConfigError, RunConfigError
from features.load import parse_feature_set
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder

WIDTHS = {"user": 8, "item": 8, "a": 8, "b": 4, "c": 4, "d": 4, "e": 4}


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
    history = embedded.sequences["history.item"]
    assert history.lengths_B.tolist() == batch.sequences["history.item"].lengths().tolist()


def test_lookups_equal_a_loop_over_examples(any_store, batch):
    embedded = any_store(batch)
    weights = {
        n.split(".")[-2 if n.endswith("weight") else -1]: p for n, p in any_store.named_parameters()
    }
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


def test_both_stores_start_from_the_same_values_and_give_the_same_gradients(batch):
    gradients = []
    for dense_max_bytes in 10**9, 0:
        built = embedder(dense_max_bytes)
        embedded = built(batch)
        vectors = [*embedded.fields.values(), embedded.sequences["history.item"].values_LD]
        loss = sum((v * torch.arange(1.0, v.numel() + 1).view(v.shape)).sum() for v in vectors)
        loss.backward()
        gradients.append(
            {
                (n.split(".")[-2] if n.endswith("weight") else n.split(".")[-1]): (
                    p.detach(),
                    p.grad,
                )
                for n, p in built.named_parameters()
            }
        )
    one, other = gradients
    assert one.keys() == other.keys() == {"user", "item", "shared", "buckets", "tiny"}
    for name in one:
        torch.testing.assert_close(one[name], other[name])


def test_readers_without_ids_are_left_out(any_store, batch):
    batch.ids = None
    embedded = any_store(batch)
    assert not embedded.fields
    assert list(embedded.sequences) == ["history.item"]


def test_the_catalogue_has_the_vector_of_every_id_with_gradient():
    built = embedder(10**9)
    vectors = built.catalogue("history.item", num_ids=100)
    torch.testing.assert_close(vectors, built.replicated.weights["item"])
    vectors[3].sum().backward()
    assert built.replicated.weights["item"].grad[3].tolist() == [1.0] * 8


def test_the_catalogue_of_a_sharded_table_is_refused_with_the_way_out():
    with pytest.raises(RunConfigError, match=r"set tables.dense_max_bytes to 3200 or more"):
        embedder(0).catalogue("item", num_ids=100)


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
