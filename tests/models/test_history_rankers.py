"""Rankers that read histories, against loops over examples and events."""

import math

import pytest
import torch
from torch import nn

import models
from features.errors import FeatureConfigError, RunConfigError
from recsys.nn.events import Events
from recsys.types import Embedded, FieldLayout, Jagged

LENGTHS = [3, 0, 7, 1]
SWITCHES = [
    {},
    {"attention": "activation_unit"},
    {"attention": "hash_collisions"},
    {"attention": "uniform", "search": "none"},
    {"search": "same_value"},
    {"search": "sign_codes"},
    {"search": "none", "auxiliary": False, "target_aware": False, "ages": False},
    {"projections": True, "age_width": 3, "batch_norm": False},
]


def layout(*, is_decoupled=True, labels=("click",)):
    """Items and categories, with one vector or two each; a user and a number as context."""
    roles = {"@attention": 2, "@representation": 5} if is_decoupled else {"": 4}
    names = ["item", "category"]
    sequences = {f"past.{n}{role}": width for n in names for role, width in roles.items()}
    return FieldLayout(
        fields={"user": 3} | {f"{n}{role}": w for n in names for role, w in roles.items()},
        sequences=sequences,
        max_lengths=dict.fromkeys(sequences, 9),
        dense={"price": 1},
        labels=labels,
    )


def learns(switches):
    return switches.get("attention") not in ("hash_collisions", "uniform")


def embedded(of, lengths=LENGTHS, seed=1):
    """Vectors of few different values, so that events agree with targets."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randint(-1, 2, shape, generator=generator).float()

    lengths_B = torch.tensor(lengths)
    return Embedded(
        fields={key: draw(len(lengths), width) for key, width in of.fields.items()},
        sequences={
            key: Jagged(draw(sum(lengths), width), lengths_B) for key, width in of.sequences.items()
        },
        dense_BN=draw(len(lengths), of.num_dense),
    )


def example(inputs, number):
    """One example alone."""
    start = sum(LENGTHS[:number])
    return Embedded(
        {k: v[number : number + 1] for k, v in inputs.fields.items()},
        {
            k: Jagged(x.values_LD[start : start + LENGTHS[number]], x.lengths_B[number, None])
            for k, x in inputs.sequences.items()
        },
        inputs.dense_BN[number : number + 1],
    )


@pytest.mark.parametrize("labels", [("click",), ("click", "buy")])
@pytest.mark.parametrize("is_decoupled", [True, False])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_shapes_gradients_and_no_look_at_others(switches, is_decoupled, labels):
    if is_decoupled and not learns(switches):
        pytest.skip("nothing would train their attention vectors")
    of = layout(is_decoupled=is_decoupled, labels=labels)
    torch.manual_seed(0)
    model = models.HistoryRanker(of, top_k=2, mlp=(6, 4), **switches)
    inputs = embedded(of)
    logits = model.training_logits(inputs)
    assert [x.shape for x in logits] == [(4, len(labels))] * (1 + switches.get("auxiliary", True))
    sum((x * torch.randn_like(x)).sum() for x in logits).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    model.eval()
    together = model(inputs)
    for number in range(4):
        torch.testing.assert_close(model(example(inputs, number)), together[number, None])


def test_dare_as_the_paper_says():
    of = layout()
    model = models.DARE(of, top_k=2, mlp=(6,), batch_norm=False).double()
    torch.nn.init.normal_(model.ages["attention"])
    torch.nn.init.normal_(model.ages["representation"])
    inputs = embedded(of)
    inputs = Embedded(
        {k: v.double() for k, v in inputs.fields.items()},
        {k: Jagged(x.values_LD.double(), x.lengths_B) for k, x in inputs.sequences.items()},
        inputs.dense_BN.double(),
    )
    main, auxiliary = model.training_logits(inputs)
    for number, length in enumerate(LENGTHS):
        one = example(inputs, number)

        def vectors(role, age, event=None, one=one):
            keys = [f"{name}@{role}" for name in ("item", "category")]
            parts = [
                one.fields[k][0] if event is None else one.sequences[f"past.{k}"].values_LD[event]
                for k in keys
            ]
            return torch.cat(parts), model.ages[role][age]

        meaning, age = vectors("attention", 0)
        scores = []
        for event in range(length):
            of_event, its_age = vectors("attention", length - event, event)
            scores.append(of_event @ meaning / math.sqrt(4) + its_age @ age / math.sqrt(len(age)))
        target = torch.cat(vectors("representation", 0))
        for kept, head, found in (
            (sorted(range(length), key=lambda e: -scores[e])[:2], model.head, main),
            (range(length), model.auxiliary_head, auxiliary),
        ):
            history = torch.zeros_like(target)
            total = sum(scores[e].exp() for e in kept)
            for e in kept:
                of_event = torch.cat(vectors("representation", length - e, e))
                history = history + scores[e].exp() / total * of_event
            context = [one.fields["user"][0], one.dense_BN[0]]
            expected = head(torch.cat([target, history, *context, target * history])[None])
            torch.testing.assert_close(found[number, None], expected)


def test_roles_learn_apart():
    of = layout()
    model = models.DARE(of, top_k=2, auxiliary=False)
    inputs = embedded(of)
    for x in [*inputs.fields.values(), *(x.values_LD for x in inputs.sequences.values())]:
        x.requires_grad_()
    for values in model.parameters():
        torch.nn.init.normal_(values)
    model(inputs).sum().backward()
    kept = set(model.kept(inputs).token_BK[model.kept(inputs).is_event_BK].tolist())
    assert len(kept) == 2 + 0 + 2 + 1
    for key, history in inputs.sequences.items():
        moved = history.values_LD.grad.abs().sum(1).nonzero().flatten().tolist()
        assert set(moved) <= kept, key
        assert moved, key


def test_the_auxiliary_head_reaches_all_events():
    of = layout()
    model = models.DARE(of, top_k=1, batch_norm=False)
    inputs = embedded(of)
    key = "past.item@attention"
    inputs.sequences[key].values_LD.requires_grad_()
    model.training_logits(inputs)[1].sum().backward()
    moved = inputs.sequences[key].values_LD.grad.abs().sum(1) > 0
    assert moved[:10].all()  # the last event is alone in its history: its share is always 1


def test_kept_by_the_same_category_are_the_most_recent():
    of = layout()
    model = models.HistoryRanker(of, search="same_value", top_k=2)
    inputs = embedded(of)
    kept = model.kept(inputs)
    category = inputs.sequences["past.category@attention"].values_LD
    start = 0
    for number, length in enumerate(LENGTHS):
        target = inputs.fields["category@attention"][number]
        same = [start + e for e in range(length) if torch.equal(category[start + e], target)]
        found = kept.token_BK[number][kept.is_event_BK[number]].tolist()
        assert found == same[::-1][:2]
        start += length


def test_attention_that_learns_nothing_knows_no_ages():
    of = layout(is_decoupled=False)
    inputs = embedded(of)
    for attention, search in (("uniform", "none"), ("hash_collisions", "none")):
        shares = []
        for std in (0.0, 3.0):
            torch.manual_seed(0)
            model = models.HistoryRanker(of, attention=attention, search=search)
            torch.nn.init.normal_(model.ages["attention"], std=std)
            events, shares_BK = model._searched(model._history(inputs))
            shares.append(shares_BK)
        torch.testing.assert_close(*shares)
        assert (shares[0] >= 0).all()
        if attention == "uniform":
            lengths_B1 = torch.tensor(LENGTHS).clamp(min=1)[:, None]
            torch.testing.assert_close(shares[0], events.is_event_BK / lengths_B1)


def test_what_is_not_finite_is_kept_and_seen():
    of = layout()
    model = models.DARE(of, top_k=2, batch_norm=False).eval()
    inputs = embedded(of)
    inputs.sequences["past.item@attention"].values_LD[:3] = torch.nan  # of the first example
    assert model.kept(inputs).is_event_BK[0].all()
    assert model(inputs).isnan().flatten().tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("is_decoupled", "switches", "says"),
    [
        (True, {"attention": "hash_collisions"}, "attention: has no gradient, .* got hash_coll"),
        (True, {"attention": "uniform", "search": "none"}, "attention: has no gradient"),
        (False, {"attention": "uniform"}, "search: scores that are all the same rank no event"),
        (True, {"search": "same_value", "projections": True}, "projections: .* never equal"),
        (True, {"ages": False, "age_width": 3}, "age_width: events know no ages here, got 3"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(is_decoupled, switches, says):
    with pytest.raises(RunConfigError, match=says):
        models.HistoryRanker(layout(is_decoupled=is_decoupled), **switches)


def test_events_are_laid_out_from_the_most_recent_on():
    events = Events.all_of(torch.tensor([2, 0, 3]), max_length=5)
    assert events.token_BK.tolist() == [[1, 0, 0], [0, 0, 0], [4, 3, 2]]
    assert events.is_event_BK.sum(1).tolist() == [2, 0, 3]
    assert events.of_ages(torch.arange(10.0)).tolist() == [[1, 2, 3]]
    best, places = events.best(torch.tensor([[5.0, 6, 9], [1, 1, 1], [1, 3, 2]]), k=2)
    assert best.token_BK[[0, 2]].tolist() == [[0, 1], [3, 2]]
    assert best.is_event_BK.tolist() == [[True, True], [False, False], [True, True]]
    assert best.age_BK[[0, 2]].tolist() == [[2, 1], [2, 3]]
    assert places[[0, 2]].tolist() == [[1, 0], [1, 2]]


def test_ages_of_cut_histories_stay_what_they_were():
    whole = Events.all_of(torch.tensor([4]), max_length=9)
    cut = Events.all_of(torch.tensor([2]), max_length=9, age_L=torch.tensor([4, 2]))
    ages, shares = torch.randn(10, 3), torch.tensor([[0.0, 0.25, 0.0, 0.75]])
    of_whole = whole.pool_ages(shares, ages)
    torch.testing.assert_close(cut.pool_ages(torch.tensor([[0.25, 0.75]]), ages), of_whole)
    assert cut.of_ages(torch.arange(10)).tolist() == [[2, 4]]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_a_batch_without_any_event(switches):
    of = layout(is_decoupled=learns(switches))
    model = models.HistoryRanker(of, **switches).eval()
    nothing = embedded(of, [0, 0])
    logits = model(nothing)
    assert logits.isfinite().all()
    history = model._searched(model._history(nothing))[1]
    assert not history.any()


class Flat(nn.Module):
    """The ranker as an export sees it."""

    def __init__(self, model, of):
        super().__init__()
        self.model, self.of = model, of

    def forward(self, fields, sequences, lengths, dense_BN):
        by_name = dict(zip(self.of.fields, fields, strict=True))
        jagged = [Jagged(v, n) for v, n in zip(sequences, lengths, strict=True)]
        return self.model(
            Embedded(by_name, dict(zip(self.of.sequences, jagged, strict=True)), dense_BN)
        )


def flat(inputs):
    histories = inputs.sequences.values()
    return (
        list(inputs.fields.values()),
        [x.values_LD for x in histories],
        [x.lengths_B.clone() for x in histories],
        inputs.dense_BN,
    )


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_export_with_any_batch_size(switches):
    of = layout(is_decoupled=learns(switches))
    model = Flat(models.HistoryRanker(of, top_k=3, **switches).eval(), of)
    examples, events = {0: torch.export.Dim("b", min=1)}, {0: torch.export.Dim("l", min=1)}
    num_fields, num_columns = len(of.fields), len(of.sequences)
    shapes = (
        [examples] * num_fields,
        [events] * num_columns,
        [examples] * num_columns,
        examples,
    )
    program = torch.export.export(model, flat(embedded(of)), dynamic_shapes=shapes).module()
    for lengths in ([9], LENGTHS, [0, 0, 1, 9, 2, 5]):
        inputs = flat(embedded(of, lengths, seed=3))
        torch.testing.assert_close(program(*inputs), model(*inputs))


def test_mistakes():
    with pytest.raises(RunConfigError) as caught:
        models.HistoryRanker(layout(), attention="din", search="topk", top_k=0, mlp=())
    assert len(caught.value.mistakes) == 4
    no_target = FieldLayout({"user": 3}, {"past.item": 4}, {}, ("click",), {"past.item": 9})
    with pytest.raises(FeatureConfigError, match="got no field item; add it"):
        models.DARE(no_target)
    no_history = FieldLayout({"user": 3}, {}, {}, ("click",))
    with pytest.raises(FeatureConfigError, match="DIN reads one history, got none"):
        models.DIN(no_history)


@pytest.mark.parametrize("name", ["DARE", "DIN"])
def test_an_epoch_may_end_with_a_batch_of_one_row(name):
    of = layout(is_decoupled=name == "DARE")
    model = getattr(models, name)(of).train()
    logits_BT = model(embedded(of, lengths=[3]))
    logits_BT.sum().backward()
    assert logits_BT.shape == (1, 1)
