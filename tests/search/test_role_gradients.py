"""Gradients of both roles: against a model of two tables, by finite sums, and by hand."""

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

import models
from features.table_spec import FullTable
from recsys.data.jagged import Ids, keyed_jagged
from recsys.search.role_copies import RoleGradient, copied, read_copies, role_gradients
from recsys.search.role_probe import IdSums
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.logical import LogicalTable, Reader
from recsys.types import Batch, FieldLayout

TARGETS, CLICKED, LENGTHS = [1, 2, 0], [1, 1, 2, 0, 2], [3, 0, 2]


def reader(key, source=None):
    is_history = "." in key
    return Reader(key, int(is_history), "item", 3, 1, "none", is_history, source=source)


def embedder(roles=("",), widths=(4, 4)):
    tables = [
        LogicalTable(
            f"item{role}",
            width,
            FullTable(dim=width),
            (reader(f"item{role}", "item"), reader(f"past.item{role}", "past.item")),
        )
        for role, width in zip(roles, widths, strict=False)
    ]
    return Embedder(tables, config=TablesConfig(seed=3))


def ranker(made, **settings):
    fields = {key: width for key, width in made.widths.items() if "." not in key}
    sequences = {key: width for key, width in made.widths.items() if "." in key}
    layout = FieldLayout(fields, sequences, {}, ("click",), dict.fromkeys(sequences, 3))
    torch.manual_seed(0)
    return models.HistoryRanker(layout, top_k=2, mlp=(5,), **settings)


def batch():
    def keyed(key, values, lengths):
        return keyed_jagged([Ids(key, np.array(values), np.array(lengths), 3)], num_rows=3)

    none = torch.zeros(0, dtype=torch.int64)
    rest = {"targets_B": none, "seen_values": none, "seen_lengths_B": none}
    return Batch(
        ids=keyed("item", TARGETS, [1, 1, 1]),
        sequences=keyed("past.item", CLICKED, LENGTHS),
        dense_BN=torch.zeros(3, 0),
        labels_BT=torch.tensor([[1.0], [0.0], [1.0]]),
        weights_B=torch.ones(3),
        users_B=none,
        **rest,
    )


def loss(model, embedded):
    weights_B1 = torch.tensor([[1.0], [-2.0], [3.0]])
    return torch.stack([(x * weights_B1).sum() for x in model.training_logits(embedded)]).sum()


@pytest.mark.parametrize("settings", [{}, {"attention": "activation_unit", "ages": False}], ids=str)
def test_copies_of_one_table_add_up_to_it_and_equal_two_tables_of_its_values(settings):
    shared = embedder()
    model = ranker(shared, **settings)
    expected = loss(model, shared(batch()))
    expected.backward()
    whole = shared.replicated.weights["item"].grad.clone()

    columns = read_copies(model)
    copies = copied(shared(batch()), columns)
    found = loss(model, copies)
    assert found.item() == expected.item()
    found.backward()
    [gradient] = role_gradients(copies, batch(), columns, shared).values()
    assert gradient.ids_U.tolist() == [0, 1, 2]
    torch.testing.assert_close(gradient.attention_UD + gradient.representation_UD, whole)

    roles = ("@attention", "@representation")
    apart = embedder(roles)
    two = ranker(apart, **settings)
    state = dict(model.state_dict())
    if "ages.attention" in state:
        state["ages.representation"] = state["ages.attention"]
    two.load_state_dict(state)
    with torch.no_grad():
        for role in roles:
            apart.replicated.weights[f"item{role}"].copy_(shared.replicated.weights["item"])
    loss(two, apart(batch())).backward()
    of_role = [apart.replicated.weights[f"item{role}"].grad for role in roles]
    torch.testing.assert_close(gradient.attention_UD, of_role[0])
    torch.testing.assert_close(gradient.representation_UD, of_role[1])
    assert of_role[0].abs().max() > 0


def test_decoupled_tables_have_the_gradients_of_their_rows():
    apart = embedder(("@attention", "@representation"), widths=(2, 3))
    model = ranker(apart)
    columns = read_copies(model)
    copies = copied(apart(batch()), columns)
    loss(model, copies).backward()
    gradient = role_gradients(copies, batch(), columns, apart)["item"]
    weights = apart.replicated.weights
    torch.testing.assert_close(gradient.attention_UD, weights["item@attention"].grad)
    torch.testing.assert_close(gradient.representation_UD, weights["item@representation"].grad)


def test_what_attention_does_not_read_has_no_gradient_through_it():
    shared = embedder()
    model = ranker(shared, attention="uniform", search="none", ages=False)
    columns = read_copies(model)
    copies = copied(shared(batch()), columns)
    loss(model, copies).backward()
    gradient = role_gradients(copies, batch(), columns, shared)["item"]
    assert gradient.attention_UD.abs().max() == 0
    assert gradient.representation_UD.norm(dim=1).min() > 0


def measures(*batches):
    sums = IdSums()
    for ids, attention, representation in batches:
        tensors = (torch.tensor(x, dtype=torch.float32) for x in (attention, representation))
        sums.add({"item": RoleGradient(torch.tensor(ids), *tensors)})
    return sums.by_column()["item"]


def test_norms_ratio_and_cosine_of_an_id_by_hand():
    found = measures(
        ([5, 7], [[3.0, 4.0], [0.0, 0.0]], [[-6.0, -8.0], [1.0, 0.0]]),
        ([5], [[1.0, 0.0]], [[0.0, 2.0]]),
    )
    # id 5: norms 5, 1 and 10, 2; products -50 and 0; squares 25 + 1 and 100 + 4
    expected = pl.DataFrame(
        {
            "id": [5, 7],
            "batches": [2, 1],
            "norm_attention": [3.0, 0.0],
            "norm_representation": [6.0, 1.0],
            "ratio": [2.0, None],
            "cosine": [-50 / (26 * 104) ** 0.5, None],
        }
    )
    assert_frame_equal(found, expected, check_dtypes=False)


def test_other_widths_have_no_cosine():
    found = measures(([1], [[3.0]], [[0.0, 6.0]]), ([1], [[1.0]], [[2.0, 0.0]]))
    assert found.select("ratio", "cosine").rows() == [(2.0, None)]
