import inspect
import string

import pytest
import torch
from torch import nn

import models
from features.errors import RunConfigError
from recsys.protocols import Ranker
from recsys.types import Embedded, FieldLayout, Jagged

RANKERS = [n for n in models.__all__ if issubclass(getattr(models, n), Ranker)]
# Those that read histories are tested in test_history_rankers.py.
PLAIN = [name for name in RANKERS if not getattr(models, name).reads_histories]


def layout(*, fields=("user", "item", "hour"), width=4, num_dense=2, labels=("click", "buy")):
    return FieldLayout(
        fields=dict.fromkeys(fields, width),
        sequences={"history.item": width},
        dense=dict.fromkeys(string.ascii_lowercase[:num_dense], 1),
        labels=labels,
        num_items=9,
    )


def embedded(of, batch_size=5):
    torch.manual_seed(1)
    return Embedded(
        fields={name: torch.randn(batch_size, width) for name, width in of.fields.items()},
        sequences={"history.item": Jagged(torch.randn(0, 4), torch.zeros(batch_size).long())},
        dense_BN=torch.randn(batch_size, of.num_dense),
    )


def built(name, of, **settings):
    """A ranker with those of the settings that it knows."""
    known = inspect.signature(getattr(models, name)).parameters
    return getattr(models, name)(of, **{k: v for k, v in settings.items() if k in known})


class Flat(nn.Module):
    """The ranker as an export sees it: tensors in, tensor out."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, fields, dense_BN):
        return self.model(Embedded(dict(zip(self.names, fields, strict=True)), {}, dense_BN))


def test_all_rankers_are_found():
    assert sorted(RANKERS) == ["DARE", "DCNv2", "DIN", "DLRM", "DeepFM", "FM", "HistoryRanker"]


@pytest.mark.parametrize("labels", [("click",), ("click", "buy", "like")])
@pytest.mark.parametrize("num_dense", [0, 3])
@pytest.mark.parametrize("name", PLAIN)
def test_shape_gradients_and_determinism(name, num_dense, labels):
    of = layout(num_dense=num_dense, labels=labels)
    torch.manual_seed(0)
    model = built(name, of, dropout=0.5, batch_norm=True)
    inputs = embedded(of)
    logits_BT = model(inputs)
    assert logits_BT.shape == (5, len(labels))
    (logits_BT * torch.randn_like(logits_BT)).sum().backward()
    dead = [n for n, p in model.named_parameters() if p.numel() and not p.grad.abs().sum() > 0]
    assert not dead
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize("num_dense", [0, 2])
@pytest.mark.parametrize("name", PLAIN)
def test_export_with_any_batch_size(name, num_dense):
    of = layout(num_dense=num_dense)
    model = Flat(getattr(models, name)(of).eval(), list(of.fields))
    fields, batch = list(embedded(of).fields.values()), torch.export.Dim.DYNAMIC
    program = torch.export.export(
        model,
        (fields, embedded(of).dense_BN),
        dynamic_shapes=([{0: batch}] * len(fields), {0: batch}),
    ).module()
    for batch_size in (1, 7):
        inputs = embedded(of, batch_size)
        args = (list(inputs.fields.values()), inputs.dense_BN)
        torch.testing.assert_close(program(*args), model(*args))


def test_dcnv2_of_the_unified_embedding_paper():
    """One cross layer, ReLU of width 192, a linear logit; nothing else (papers: DCN, MovieLens)."""
    of = FieldLayout({"user": 3, "item": 2}, {}, {"a": 1, "b": 1}, ("click",))
    model = models.DCNv2(of, structure="stacked", num_cross_layers=1, mlp=(192,))
    inputs = embedded(of)
    x0 = torch.cat([inputs.fields["user"], inputs.fields["item"], inputs.dense_BN], dim=1)
    cross_weight, cross_bias, mlp_weight, mlp_bias, head_weight, head_bias = model.parameters()
    x1 = x0 * (x0 @ cross_weight.T + cross_bias) + x0
    expected = torch.relu(x1 @ mlp_weight.T + mlp_bias) @ head_weight.T + head_bias
    assert mlp_weight.shape == (192, 7)
    torch.testing.assert_close(model(inputs), expected)


def test_parallel_dcnv2_reads_both_towers():
    of = layout()
    model = models.DCNv2(of, structure="parallel", low_rank=2, mlp=(8,))
    x0 = embedded(of).concatenated_BC()
    both = torch.cat([model.cross(x0), model.mlp(x0)], dim=1)
    assert torch.equal(model(embedded(of)), model.head(both))


def test_deepfm_is_the_sum_of_its_three_terms():
    of = layout(fields=("user", "item"), num_dense=1, labels=("click",))
    model = models.DeepFM(of, mlp=(8,))
    inputs = embedded(of)
    user, item = inputs.fields.values()
    dense = inputs.dense_BN * model.dense_vectors_ND[0]
    pairs = (user * item + user * dense + item * dense).sum(1, keepdim=True)
    first = model.first_order(torch.cat([user, item, inputs.dense_BN], 1))
    deep = model.head(model.mlp(torch.cat([user, item, dense], 1)))
    torch.testing.assert_close(model(inputs), first + pairs + deep)


@pytest.mark.parametrize("first_order", [True, False])
def test_fm_is_the_sum_of_all_pairs(first_order):
    of = layout(num_dense=1, labels=("click",))
    model = models.FM(of, first_order=first_order)
    inputs = embedded(of)
    dense = inputs.dense_BN[:, 0, None] * model.dense_vectors_ND[0]
    vectors = [*inputs.fields.values(), dense]
    pairs = sum((one * other).sum(1) for i, one in enumerate(vectors) for other in vectors[i + 1 :])
    expected = pairs + model.bias_T
    if first_order:
        expected = expected + inputs.concatenated_BC() @ model.first_order.weight[0]
    torch.testing.assert_close(model(inputs).squeeze(1), expected)


def test_dlrm_feeds_the_bottom_vector_and_all_dots_to_the_top():
    of = layout(fields=("user", "item"))
    model = models.DLRM(of, bottom_mlp=(8,), top_mlp=(8,))
    inputs = embedded(of)
    bottom = model.bottom(inputs.dense_BN)
    user, item = inputs.fields.values()
    dots = [(bottom * user).sum(1), (bottom * item).sum(1), (user * item).sum(1)]
    expected = model.head(model.top(torch.cat([bottom, torch.stack(dots, 1)], 1)))
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("name", ["DeepFM", "DLRM", "FM"])
def test_fields_of_different_width(name):
    of = FieldLayout({"user": 4, "item": 8}, {}, {}, ("click",))
    with pytest.raises(RunConfigError, match=rf"^{name}: needs all fields of one width, got user"):
        getattr(models, name)(of)
    assert models.DCNv2(of)(embedded(of)).shape == (5, 1)


def test_all_mistakes_at_once():
    of = FieldLayout({}, {}, {}, ())
    with pytest.raises(RunConfigError) as caught:
        models.DCNv2(
            of, structure="stackd", num_cross_layers=-1, mlp=(8, 0), dropout=1.0, low_rank=0
        )
    assert str(caught.value).splitlines() == [
        "DCNv2: layout: has no label, got (); add `label` to the feature file",
        "DCNv2: layout: has no input; add a pooled or dense feature to the file",
        "DCNv2: structure: is unknown, got 'stackd'; allowed stacked, parallel; did you mean "
        "'stacked'?",
        "DCNv2: num_cross_layers: is too small, got -1; allowed 0 or more",
        "DCNv2: mlp: needs a width of 1 or more per layer and 0 or more layers, got [8, 0]; "
        "write for example [400, 400]",
        "DCNv2: dropout: is no dropout rate, got 1.0; allowed 0 <= rate < 1",
        "DCNv2: low_rank: is too small, got 0; allowed 1 or more",
    ]


def test_dlrm_needs_two_vectors():
    of = layout(fields=("user",), num_dense=0)
    with pytest.raises(ValueError, match="dot products need two vectors, got 1"):
        models.DLRM(of)
