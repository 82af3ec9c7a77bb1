"""Layers of every model follow their inputs: outputs stay, and nothing is left unlabelled."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

import models
from recsys.migration.layers import plan_layers
from recsys.migration.names import OldNames
from recsys.nn.segments import labels_of
from recsys.protocols import Ranker, SequenceEncoder
from recsys.types import Embedded, FieldLayout, History, Jagged

MODELS = {name: getattr(models, name) for name in models.__all__}
RANKERS = [name for name, made in MODELS.items() if issubclass(made, Ranker)]
ENCODERS = [name for name, made in MODELS.items() if issubclass(made, SequenceEncoder)]
SETTINGS = {
    "DCNv2": [{}, {"structure": "parallel", "low_rank": 2}, {"mlp": (), "batch_norm": True}],
    "DeepFM": [{"batch_norm": True}],
    "DLRM": [{"bottom_mlp": (), "batch_norm": True}, {}],
    "FM": [{}, {"first_order": False}],
    "HistoryRanker": [
        {"projections": True, "age_width": 3},
        {"attention": "activation_unit", "ages": False, "target_aware": False},
    ],
    "SequenceTransformer": [{"head": "dense", "objective": "cloze"}],
}
CASES = [(n, s) for n in [*RANKERS, *ENCODERS] for s in SETTINGS.get(n, [{}])]
of_rankers = pytest.mark.parametrize(
    ("name", "settings"), [(n, s) for n, s in CASES if n in RANKERS], ids=str
)
of_all = pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
WIDTH = 4


def layout(fields=("user", "item", "hour"), dense=None, *, length=5, labels=("click",), items=9):
    """What a ranker reads, with a history of items."""
    return FieldLayout(
        fields=dict.fromkeys(fields, WIDTH),
        sequences={"past.item": WIDTH},
        dense={"price": 1, "text": 2} if dense is None else dense,
        labels=labels,
        max_lengths={"past.item": length},
        num_items=items,
    )


def encoder_layout(sides=("genre",), *, length=5, items=9):
    keys = {"past.item": WIDTH} | {f"past.{side}": 3 for side in sides}
    return FieldLayout({}, keys, {}, (), dict.fromkeys(keys, length), num_items=items)


def built(name, of, settings, seed=0):
    torch.manual_seed(seed)
    model = MODELS[name](of, **settings)
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer += torch.rand_like(buffer)
    return model.double().eval()


def moved(old, new, *, names: Mapping[str, str], items=None):
    """The new model with what follows of the old one; and the plan."""
    items = np.arange(9) if items is None else items
    plan = plan_layers(old, new, names=OldNames(names, {}), items=items)
    state, fresh = dict(old.state_dict()), dict(new.state_dict())
    found = {m.name: m.apply(state.get(m.was), fresh[m.name]) for m in plan.moves}
    new.load_state_dict(found)
    return new, plan


def embedded(of, *, names=None, zero=()):
    """The same vectors whatever the names and the order are."""

    def draw(name, *shape):
        seed = sum(ord(letter) for letter in (names or {}).get(name, name))
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()

    lengths = torch.tensor([3, 1, 0, 5])
    fields = {key: draw(key, 4, width) for key, width in of.fields.items()}
    fields |= {key: torch.zeros(4, of.fields[key]).double() for key in zero}
    return Embedded(
        fields=fields,
        sequences={
            key: Jagged(draw(key.rpartition(".")[2], 9, width), lengths)
            for key, width in of.sequences.items()
        },
        dense_BN=torch.cat(
            [torch.zeros(4, 0).double()] + [draw(n, 4, w) for n, w in of.dense.items()], 1
        ),
    )


def same(names):
    return {name: name for name in names}


@of_rankers
def test_fields_in_another_order(name, settings):
    before = layout()
    after = layout(("hour", "user", "item"), {"text": 2, "price": 1})
    old = built(name, before, settings)
    names = same([*before.fields, *before.dense, "past"])
    new, _ = moved(old, built(name, after, settings, seed=1), names=names)
    torch.testing.assert_close(new(embedded(after)), old(embedded(before)))


@of_rankers
def test_renamed_fields(name, settings):
    before, after = layout(), layout(("who", "item", "when"), {"cost": 1, "text": 2})
    old = built(name, before, settings)
    names = {"who": "user", "item": "item", "when": "hour", "cost": "price", "text": "text"}
    new, _ = moved(old, built(name, after, settings, seed=1), names=names | {"past": "past"})
    expected = old(embedded(before))
    torch.testing.assert_close(new(embedded(after, names=names)), expected)


@of_rankers
@pytest.mark.parametrize("more", ["field", "dense", "first dense", "vector"])
def test_one_more_feature_changes_no_output(name, settings, more):
    before = layout(dense={}) if more == "first dense" else layout()
    new_dense = {"dense": {"age": 1}, "first dense": {"age": 1}, "vector": {"image": 3}}
    fields = ("user", "city", "item", "hour") if more == "field" else tuple(before.fields)
    after = layout(fields, new_dense.get(more, {}) | dict(before.dense))
    old = built(name, before, settings)
    new, _ = moved(
        old,
        built(name, after, settings, seed=1),
        names=same([*before.fields, *before.dense, "past"]),
    )
    zero = ["city"] if more == "field" and MODELS[name].multiplies_fields else []
    found = new(embedded(after, zero=zero))
    torch.testing.assert_close(found, old(embedded(before)), atol=1e-9, rtol=1e-9)


@of_rankers
def test_a_field_that_goes_takes_its_columns_along(name, settings):
    before, after = layout(), layout(("user", "item"), {"price": 1})
    old = built(name, before, settings)
    names = same(["user", "item", "price", "past"])
    new, plan = moved(old, built(name, after, settings, seed=1), names=names)
    assert not plan.stuck
    silent = embedded(before)
    silent.fields["hour"].zero_()
    silent.dense_BN[:, 1:] = 0
    if not any(isinstance(m, torch.nn.BatchNorm1d) for m in old.modules()):
        torch.testing.assert_close(new(embedded(after)), old(silent))


@pytest.mark.parametrize(("name", "settings"), [c for c in CASES if c[0] in ENCODERS], ids=str)
def test_encoders_follow_sides_positions_and_items(name, settings):
    before, after = encoder_layout(), encoder_layout(("tag", "kind"), length=8, items=11)
    if name == "HSTU":  # it divides by the longest length before it normalises
        after = encoder_layout(("tag", "kind"), items=11)
    old = built(name, before, settings)
    items = np.array([0, 1, 2, 5, 4, 3, -1, 8, 7, 6, -1])
    names = {"item": "item", "past": "past", "kind": "genre"}
    new, plan = moved(old, built(name, after, settings, seed=1), names=names, items=items)
    assert not plan.stuck
    torch.manual_seed(2)
    lengths, vectors = torch.tensor([3, 1, 0, 5]), torch.randn(9, WIDTH).double()
    side, other = torch.randn(2, 9, 3).double()
    expected = old(History(vectors, lengths, {"past.genre": side}))
    found = new(History(vectors, lengths, {"past.tag": other, "past.kind": side}))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    if old.item_bias_V is not None:
        known = items >= 0
        assert torch.equal(new.item_bias_V[known], old.item_bias_V[items[known]])


@of_all
def test_what_follows_from_the_layout_is_labelled(name, settings):
    if name in ENCODERS:
        base = encoder_layout()
        others = [
            encoder_layout(length=7),
            encoder_layout(items=12),
            encoder_layout(("genre", "x")),
        ]
    else:
        base = layout()
        others = [
            layout(("user", "item", "hour", "city")),
            layout(dense={"price": 1}),
            layout(length=7),
            layout(labels=("click", "buy")),
        ]
    before = built(name, base, settings)
    for other in others:
        after = built(name, other, settings)
        labels = labels_of(after)
        shapes = {n: t.shape for n, t in before.state_dict().items()}
        for tensor, value in after.state_dict().items():
            if tensor not in shapes:
                continue
            for axis, (size, was) in enumerate(zip(value.shape, shapes[tensor], strict=True)):
                assert size == was or labels[tensor][axis] is not None, (tensor, axis)


def test_a_wider_field_keeps_its_leading_part():
    before, after = layout(), layout()
    after = FieldLayout(**(vars(after) | {"fields": {"user": 4, "item": 6, "hour": 2}}))
    old = built("DCNv2", before, {"mlp": (8,)})
    new, plan = moved(
        old,
        built("DCNv2", after, {"mlp": (8,)}, seed=1),
        names=same(["user", "item", "hour", "price", "text", "past"]),
    )
    assert not plan.stuck
    weight, was = new.mlp.layers[0].weight, old.mlp.layers[0].weight
    assert torch.equal(weight[:, :8], was[:, :8])
    assert not weight[:, 8:10].any()
    assert torch.equal(weight[:, 10:12], was[:, 8:10])
    assert torch.equal(weight[:, 12:], was[:, 12:])


def test_a_shape_that_no_input_explains_is_stuck():
    old = built("DCNv2", layout(), {"mlp": (8,)})
    new, plan = moved(
        old,
        built("DCNv2", layout(), {"mlp": (9,)}, seed=1),
        names=same(["user", "item", "hour", "price", "text", "past"]),
    )
    assert set(plan.stuck) == {"mlp.layers.0.weight", "mlp.layers.0.bias"}
    assert new.mlp.layers[0].weight.shape == (9, 15)


@of_rankers
def test_outputs_follow_their_labels(name, settings):
    before, names = layout(labels=("click", "buy")), ["user", "item", "hour", "price", "text"]
    old = built(name, before, settings)
    for labels in (("buy", "like"), ("like",), ("like", "view")):
        after = built(name, layout(labels=labels), settings, seed=1)
        fresh = {key: value.clone() for key, value in after.state_dict().items()}
        new, plan = moved(old, after, names=same([*names, "past"]))
        of_labels = {k for k, axes in labels_of(new).items() if any(map(is_label_axis, axes))}
        assert of_labels
        if "buy" in labels:
            assert not plan.stuck
            found, expected = new(embedded(before)), old(embedded(before))
            torch.testing.assert_close(found[:, 0], expected[:, 1])
            continue
        assert plan.stuck == dict.fromkeys(of_labels, "none of the labels was there before")
        for key in of_labels:
            assert torch.equal(new.state_dict()[key], fresh[key])


def is_label_axis(axis):
    return axis is not None and axis.segments[0].of[0].startswith("@label.")
