"""Gradients of rankers whose readers are known."""

import pytest
import torch
from torch import nn

from models import FM, DCNv2
from recsys.protocols import Ranker
from recsys.search import sample as sample_module
from recsys.search.gradients import gradient_moments
from recsys.search.sample import Sample
from recsys.tables.angles import angle
from recsys.types import Embedded, FieldLayout

LAYOUT = FieldLayout(fields={"a": 3, "b": 3}, sequences={}, dense={"c": 1}, labels=("click", "buy"))


class Linear(Ranker):
    """Logits that are linear in all fields but the last, which it does not read."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.ParameterDict({k: torch.tensor(w) for k, w in weights.items()})

    def forward(self, embedded):
        logits_B = sum(embedded.fields[key] @ weight for key, weight in self.weights.items())
        return torch.stack([logits_B, torch.zeros_like(logits_B)], dim=1)


def random_sample(keys="ab", *, width=3, size=50):
    rng = torch.Generator().manual_seed(0)
    fields = {key: torch.randn(size, width, generator=rng) for key in keys}
    dense = torch.randn(size, 1, generator=rng)
    embedded = Embedded(fields=fields, sequences={}, dense_BN=dense)
    return Sample(embedded, torch.randint(0, 2, (size,), generator=rng).float(), torch.ones(size))


def test_of_linear_readers_they_are_the_weights():
    ranker = Linear({"a": [1.0, 0.0, 2.0], "b": [0.0, 3.0, 0.0]})
    moments = gradient_moments(ranker, random_sample("abc"))
    assert moments["a"].tolist() == [[50, 0, 100], [0, 0, 0], [100, 0, 200]]
    assert angle(moments["a"], moments["b"]) == 90
    assert not moments["c"].any()
    assert angle(moments["a"], moments["c"]) is None


def test_all_parts_of_a_sample_count(monkeypatch):
    ranker, sample = FM(LAYOUT), random_sample()
    whole = gradient_moments(ranker, sample)
    monkeypatch.setattr(sample_module, "_PART", 7)
    for key, moments in gradient_moments(ranker, sample).items():
        torch.testing.assert_close(moments, whole[key])


def test_of_a_dcn_without_crosses_the_angle_is_that_of_its_columns():
    ranker = DCNv2(LAYOUT, num_cross_layers=0, mlp=())
    with torch.no_grad():
        ranker.head.weight[0] = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 9.0])
        ranker.head.weight[1] = torch.randn(7)  # of another label
    moments = gradient_moments(ranker, random_sample())
    assert angle(moments["a"], moments["b"]) == pytest.approx(45)


def test_of_a_factorisation_machine_they_are_the_sums_of_the_other_fields():
    ranker, sample = FM(LAYOUT, first_order=False), random_sample()
    dense_BD = sample.embedded.dense_BN * ranker.dense_vectors_ND.detach()
    others_BD = (sample.embedded.fields["b"] + dense_BD).double()
    found = gradient_moments(ranker, sample)["a"]
    torch.testing.assert_close(found, others_BD.T @ others_BD, rtol=1e-5, atol=1e-5)


def test_no_gradient_stays_behind():
    ranker, sample = FM(LAYOUT), random_sample()
    gradient_moments(ranker, sample)
    assert all(parameter.grad is None for parameter in ranker.parameters())
    assert not any(vectors.requires_grad for vectors in sample.embedded.fields.values())
