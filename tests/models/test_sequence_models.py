import pytest
import torch
from torch import nn

import models
from features.errors import RunConfigError
from recsys.losses import full_softmax
from recsys.nn.catalogue import catalogue_scores
from recsys.types import FieldLayout, Jagged

ENCODERS = [n for n in models.__all__ if hasattr(getattr(models, n), "objective")]
LAYOUT = FieldLayout({}, {"history.item_id": 8}, 0, (), {"history.item_id": 7}, num_items=11)
LENGTHS = [3, 0, 1, 7, 2, 0]


def encoder(name, **settings):
    torch.manual_seed(0)
    return getattr(models, name)(LAYOUT, **settings)


def sequences(lengths=LENGTHS):
    torch.manual_seed(1)
    return Jagged(torch.randn(sum(lengths), 8), torch.tensor(lengths, dtype=torch.long))


def test_all_encoders_are_found():
    assert sorted(ENCODERS) == ["BERT4Rec", "SASRec"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("BERT4Rec", {}), ("SASRec", {"block": "sasrec"}), ("SASRec", {"block": "pre_norm"})],
)
def test_packed_batch_is_one_sequence_at_a_time(name, settings):
    model, items = encoder(name, **settings).eval(), sequences()
    hidden_LD = model(items)
    alone = [
        model(Jagged(part, torch.tensor([len(part)]))) for part in items.values_LD.split(LENGTHS)
    ]
    assert hidden_LD.shape == (13, 8)
    torch.testing.assert_close(hidden_LD, torch.cat(alone))
    assert torch.equal(hidden_LD, model(items))


@pytest.mark.parametrize("name", ENCODERS)
def test_gradient_reaches_every_parameter(name):
    model, items = encoder(name, dropout=0.2, attention_dropout=0.2), sequences()
    masked_L = torch.arange(13) % 3 == 0
    if model.objective == "cloze":
        items = model.mask(items, masked_L)
    logits_MK = catalogue_scores(model, model(items)[masked_L], torch.randn(11, 8))
    assert logits_MK.shape == (5, 11)
    (logits_MK * torch.randn_like(logits_MK)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("name", ENCODERS)
def test_what_a_position_sees(name):
    model, items = encoder(name).eval(), sequences([4, 5])
    changed = items.values_LD.clone()
    changed[6] = torch.randn(8)  # the third token of the second sequence
    before, after = model(items), model(Jagged(changed, items.lengths_B))
    differs_L = (before - after).abs().amax(dim=1) > 1e-6
    sees_it = {"next": [6, 7, 8], "cloze": [4, 5, 6, 7, 8]}[model.objective]
    assert differs_L.nonzero().squeeze(1).tolist() == sees_it


@pytest.mark.parametrize("name", ENCODERS)
def test_positions_count_from_the_end(name):
    """The last token of a long and a short sequence meets the same position vector."""
    model = encoder(name)
    model.positions.weight.data[3:] = torch.nan
    assert not model(sequences([1, 2, 3])).isnan().any()
    assert model(sequences([4])).isnan().any()


@pytest.mark.parametrize("name", ENCODERS)
def test_export_with_any_batch(name):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = encoder(name).eval()

        def forward(self, values_LD, lengths_B):
            return self.model(Jagged(values_LD, lengths_B))

    items, size = sequences(), torch.export.Dim.DYNAMIC
    flat = Flat()
    program = torch.export.export(
        flat, (items.values_LD, items.lengths_B), dynamic_shapes=({0: size}, {0: size})
    ).module()
    for lengths in ([2, 7], [1], [0, 0, 5, 0]):
        items = sequences(lengths)
        torch.testing.assert_close(program(items.values_LD, items.lengths_B), flat.model(items))


def test_bert4rec_mask_and_head_by_hand():
    model, items = encoder("BERT4Rec"), sequences([2])
    masked = model.mask(items, torch.tensor([False, True]))
    assert torch.equal(masked.values_LD, torch.stack([items.values_LD[0], model.mask_D]))

    model.item_bias_V.data = torch.arange(11.0)
    hidden_MD, table_VD = torch.randn(3, 8), torch.randn(11, 8)
    linear, _, norm = model.projection
    head_MD = norm(nn.functional.gelu(hidden_MD @ linear.weight.T + linear.bias))
    expected = head_MD @ table_VD.T + torch.arange(11.0)
    torch.testing.assert_close(catalogue_scores(model, hidden_MD, table_VD), expected)


def test_sasrec_scales_items_not_positions():
    scaled, plain = encoder("SASRec").eval(), encoder("SASRec", scale_items=False).eval()
    items = sequences()
    larger = Jagged(items.values_LD * 8**0.5, items.lengths_B)
    torch.testing.assert_close(scaled(items), plain(larger))


def test_head_width_is_free_of_the_item_width():
    assert encoder("SASRec", num_heads=3, head_width=16)(sequences()).shape == (13, 8)
    with pytest.raises(RunConfigError, match="num_heads: does not divide the width 8"):
        encoder("SASRec", num_heads=3)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("sequence_widths", [{}, {"a.item": 4, "b.item": 4}])
def test_exactly_one_sequence(name, sequence_widths):
    with pytest.raises(ValueError, match="layout: needs exactly one sequence"):
        getattr(models, name)(FieldLayout({}, sequence_widths, 0, (), num_items=5), max_length=7)


def test_all_mistakes_at_once():
    with pytest.raises(RunConfigError) as caught:
        models.BERT4Rec(
            FieldLayout({}, {"a.item": 4}, 0, ()), max_length=0, num_blocks=0, dropout=-0.1
        )
    assert str(caught.value).splitlines() == [
        "BERT4Rec: layout: needs an item catalogue, got 0 items; name the item feature under "
        "`entity` in the feature file",
        "BERT4Rec: max_length: is too small, got 0; allowed 1 or more",
        "BERT4Rec: num_blocks: is too small, got 0; allowed 1 or more",
        "BERT4Rec: dropout: is no dropout rate, got -0.1; allowed 0 <= rate < 1",
    ]


def test_sequence_longer_than_max_length():
    with pytest.raises(RunConfigError, match=r"^SASRec\.max_length: is shorter than a sequence"):
        encoder("SASRec")(sequences([8]))
    assert encoder("SASRec", max_length=8)(sequences([8])).shape == (8, 8)


@pytest.mark.parametrize("name", ENCODERS)
def test_learns_what_follows(name):
    """Items run in a circle, 1 to 20 and round again, from random starts."""
    torch.manual_seed(0)
    of = FieldLayout({}, {"history.item_id": 16}, 0, (), {"history.item_id": 9}, num_items=21)
    model, table_VD = getattr(models, name)(of, dropout=0.0), nn.Parameter(torch.randn(21, 16) / 4)
    optimizer = torch.optim.Adam([*model.parameters(), table_VD], lr=0.01)
    for _ in range(150):
        lengths_B = torch.randint(1, 10, (32,))
        ids_L = (
            torch.cat([torch.arange(int(n)) + torch.randint(20, ()) for n in lengths_B]) % 20 + 1
        )
        items = Jagged(table_VD[ids_L], lengths_B)
        if model.objective == "cloze":
            asked_L, targets_L = torch.rand(len(ids_L)) < 0.3, ids_L
            items = model.mask(items, asked_L)
        else:
            asked_L, targets_L = torch.ones(len(ids_L), dtype=torch.bool), ids_L % 20 + 1
        vectors_MD = model.head(model(items)[asked_L])
        loss = full_softmax(
            vectors_MD, table_VD, targets_L[asked_L], bias_V=model.item_bias_V, chunk=64
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    history = torch.tensor([17, 18, 19, 20])
    items = Jagged(table_VD[history], torch.tensor([4]))
    if model.objective == "cloze":
        items = Jagged(table_VD[torch.cat([history, history[:1]])], torch.tensor([5]))
        items = model.mask(items, torch.arange(5) == 4)
    logits_V = catalogue_scores(model.eval(), model(items)[-1:], table_VD)[0]
    assert logits_V[1:].argmax() + 1 == 1
