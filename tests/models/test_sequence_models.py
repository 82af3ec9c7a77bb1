"""What every sequence model must do, whichever it is; and what is special to one."""

import importlib
import inspect
import pkgutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import models
from features.errors import RunConfigError
from models.transformer import SequenceTransformer
from recsys.losses import full_softmax
from recsys.nn.catalogue import catalogue_scores
from recsys.nn.tokens import is_last
from recsys.protocols import SequenceEncoder, SequenceLoss
from recsys.types import FieldLayout, History

ITEM, SIDE = "history.item_id", "history.genre"
LAYOUT = FieldLayout({}, {ITEM: 8, SIDE: 3}, {}, (), {ITEM: 7}, num_items=11, has_times=True)
LENGTHS = [3, 0, 1, 7, 2, 0]
WANTED = [0, 2, 5, 6, 10, 12]  # of LENGTHS: several, one or none of a history

MODELS = {name: getattr(models, name) for name in models.__all__}
ENCODERS = [name for name, made in MODELS.items() if issubclass(made, SequenceEncoder)]
TRANSFORMERS = [name for name in ENCODERS if issubclass(MODELS[name], SequenceTransformer)]
SWITCHED = [
    ("SequenceTransformer", {"objective": "cloze", "block": "sasrec", "attention_dropout": 0.1}),
    ("SASRec", {"block": "pre_norm", "scale_items": False}),
    ("BERT4Rec", {"block": "ligr", "head_width": 5, "num_heads": 3}),
    *((name, {"positions": "rotary", "time_gaps": True}) for name in TRANSFORMERS),
    ("SASRec", {"positions": "none", "num_blocks": 1}),
    ("HSTU", {"num_blocks": 1, "head_width": 5, "num_heads": 3}),
]
VARIANTS = [*((name, {}) for name in ENCODERS), *SWITCHED]
each_encoder = pytest.mark.parametrize("name", ENCODERS)
each_variant = pytest.mark.parametrize(("name", "settings"), VARIANTS)


def encoder(name, *, layout=LAYOUT, **settings):
    """A model whose small first weights are made larger, so that what matters shows."""
    torch.manual_seed(0)
    model = MODELS[name](layout, **settings)
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    return model


def history(lengths=LENGTHS):
    torch.manual_seed(1)
    num_tokens = sum(lengths)
    return History(
        torch.randn(num_tokens, 8),
        torch.tensor(lengths, dtype=torch.int64),
        {SIDE: torch.randn(num_tokens, 3)},
        times_L=torch.randint(10**6, (num_tokens,)),
        asked_at_L=torch.randint(10**6, (num_tokens,)),
    )


def split(read):
    """The histories of a batch, one at a time."""
    lengths = read.lengths_B.tolist()
    columns = (read.items_LD, read.sides[SIDE], read.times_L, read.asked_at_L)
    parts = zip(*(column.split(lengths) for column in columns), strict=True)
    return [
        History(items, torch.tensor([len(items)]), {SIDE: side}, times, asked_at)
        for items, side, times, asked_at in parts
    ]


def untimed(read):
    return replace(read, times_L=None, asked_at_L=None)


def changed_tokens(model, read, other):
    """Tokens at which two histories give different vectors."""
    return ((model(read) - model(other)).abs().amax(1) > 1e-6).nonzero().squeeze(1).tolist()


def test_all_encoders_are_found():
    files = [
        importlib.import_module(f"models.{m.name}") for m in pkgutil.iter_modules(models.__path__)
    ]
    classes = {made for file in files for _, made in inspect.getmembers(file, inspect.isclass)}
    written = {made.__name__ for made in classes if issubclass(made, SequenceEncoder)}
    assert written - {"SequenceEncoder"} == set(ENCODERS)
    assert len(ENCODERS) >= 6


@each_encoder
def test_declarations(name):
    model = encoder(name)
    assert isinstance(model.loss, SequenceLoss)
    assert model.objective in ("next", "cloze")
    assert model.item_bias_V is None or model.item_bias_V.shape == (11,)
    assert MODELS[name](LAYOUT).max_length == 7, "that of the feature file"
    hidden_MD = torch.randn(3, 8)
    assert model.head(hidden_MD).shape == (3, 8)


@each_variant
def test_packed_batch_is_one_history_at_a_time(name, settings):
    model, read = encoder(name, **settings).eval(), history()
    hidden_LD = model(read)
    assert hidden_LD.shape == (13, 8)
    torch.testing.assert_close(hidden_LD, torch.cat([model(one) for one in split(read)]))
    assert torch.equal(hidden_LD, model(read))


@each_variant
def test_wanted_tokens_alone(name, settings):
    model, read = encoder(name, **settings).eval(), history()
    wanted_M = torch.tensor(WANTED)
    if model.objective == "next":
        wanted_M = is_last(read.lengths_B).nonzero().squeeze(1)
    torch.testing.assert_close(model(read, wanted_M), model(read)[wanted_M])


@each_variant
def test_what_a_position_sees(name, settings):
    """The third event of the second history is changed, in one column or in the other."""
    model, read = encoder(name, **settings).eval(), history([4, 5, 1])
    sees_it = {"next": [6, 7, 8], "cloze": [4, 5, 6, 7, 8]}[model.objective]
    items_LD, side_LW = read.items_LD.clone(), read.sides[SIDE].clone()
    items_LD[6], side_LW[6] = torch.randn(8), torch.randn(3)
    assert changed_tokens(model, read, replace(read, items_LD=items_LD)) == sees_it
    assert changed_tokens(model, read, replace(read, sides={SIDE: side_LW})) == sees_it

    reads_times = name == "HSTU" or settings.get("time_gaps", False)
    times_L, asked_at_L = read.times_L.clone(), read.asked_at_L.clone()
    times_L[6] += 10**9
    asked_at_L[6] += 10**9
    for later in (replace(read, times_L=times_L), replace(read, asked_at_L=asked_at_L)):
        seen_at = changed_tokens(model, read, later)
        assert bool(seen_at) == reads_times
        assert set(seen_at) <= set(sees_it)


@each_encoder
@pytest.mark.parametrize("lengths", [[], [0], [1], [0, 0, 1, 0], [200, 0, 1], [199, 200]])
def test_histories_from_none_to_long(name, lengths):
    model, read = encoder(name, max_length=200).eval(), history(lengths)
    hidden_LD = model(read)
    assert hidden_LD.shape == (sum(lengths), 8)
    assert hidden_LD.isfinite().all()
    if lengths:
        alone = split(read)[0]
        torch.testing.assert_close(hidden_LD[: lengths[0]], model(alone), atol=1e-4, rtol=1e-4)


@each_encoder
def test_history_longer_than_max_length(name):
    with pytest.raises(RunConfigError) as caught:
        encoder(name)(history([8, 2]))
    assert str(caught.value).startswith(
        f"{name}.max_length: is shorter than a sequence, got 7 for one of 8 tokens; allowed 8 or "
    )
    assert encoder(name, max_length=8)(history([8, 2])).shape == (10, 8)


@each_variant
@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0]])
def test_gradient_reaches_every_parameter(name, settings, lengths):
    """Also where a process has no token at all: the others await its gradients."""
    model, read = encoder(name, **settings), history(lengths)
    masked_L = torch.arange(sum(lengths)) % 3 == 0
    if model.objective == "cloze":
        read = model.mask(read, masked_L)
    for timed in (True, False) if name == "HSTU" else (True,):
        model.zero_grad()
        logits_LV = catalogue_scores(
            model, model(read if timed else untimed(read)), torch.randn(11, 8)
        )
        assert logits_LV.shape == (sum(lengths), 11)
        (logits_LV * torch.randn_like(logits_LV)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        if lengths and sum(lengths) and timed:
            assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@each_encoder
def test_dropout_in_training_alone(name):
    model, read = encoder(name, dropout=0.5), history()
    assert not torch.allclose(model(read), model(read))
    assert torch.equal(model.eval()(read), model(read))
    torch.testing.assert_close(model(read), encoder(name, dropout=0.0)(read))


@pytest.mark.parametrize(
    ("name", "settings"),
    [variant for variant in VARIANTS if encoder(variant[0], **variant[1]).objective == "cloze"],
)
def test_mask_hides_items_and_sides(name, settings):
    model, read = encoder(name, **settings).eval(), history()
    masked_L = torch.zeros(13, dtype=torch.bool)
    masked_L[WANTED] = True
    hidden = model.mask(read, masked_L)
    assert torch.equal(hidden.items_LD[masked_L], model.mask_D.expand(6, 8))
    assert torch.equal(hidden.items_LD[~masked_L], read.items_LD[~masked_L])
    assert torch.equal(hidden.sides[SIDE][~masked_L], read.sides[SIDE][~masked_L])
    other = torch.where(masked_L.unsqueeze(1), 9.0, 0.0)
    different = replace(
        read, items_LD=read.items_LD + other, sides={SIDE: read.sides[SIDE] + other[:, :1]}
    )
    assert torch.equal(model(model.mask(different, masked_L)), model(hidden))
    assert changed_tokens(model, read, hidden)


class Served(nn.Module):
    """The model as an exported bundle calls it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, items_LD, sides, times, lengths_B, is_last_L):
        times_L, asked_at_L = times or (None, None)
        read = History(
            items_LD, lengths_B, dict(zip([SIDE], sides, strict=True)), times_L, asked_at_L
        )
        if self.model.objective == "cloze":
            read = self.model.mask(read, is_last_L)
        return self.model.head(self.model(read, lengths_B.cumsum(0) - 1))

    @staticmethod
    def arguments(read):
        times = [] if read.times_L is None else [read.times_L, read.asked_at_L]
        sides, lengths_B = [*read.sides.values()], read.lengths_B
        return read.items_LD, sides, times, lengths_B, is_last(lengths_B)


@pytest.mark.parametrize(
    ("name", "settings", "timed"),
    [
        *((name, {}, name == "HSTU") for name in ENCODERS),
        ("HSTU", {}, False),
        ("BERT4Rec", {"positions": "rotary", "time_gaps": True}, True),
        ("ESASRec", {"positions": "rotary", "time_gaps": True}, True),
    ],
)
def test_export_with_any_batch(name, settings, timed):
    served = Served(encoder(name, **settings)).eval()

    def arguments(lengths):
        return Served.arguments(history(lengths) if timed else untimed(history(lengths)))

    tokens = {0: torch.export.Dim("tokens", min=1)}
    shapes = (
        tokens,
        [tokens],
        [tokens] * (2 * timed),
        {0: torch.export.Dim("batch", min=1)},
        tokens,
    )
    program = torch.export.export(served, arguments([2, 3]), dynamic_shapes=shapes).module()
    for lengths in ([2, 7], [1], [3, 1, 1, 7, 4]):
        torch.testing.assert_close(program(*arguments(lengths)), served(*arguments(lengths)))


# --------------------------------------------------------------------------------- settings
@each_encoder
def test_all_mistakes_at_once(name):
    """Of the settings that all encoders have; the choices of the transformers among them."""
    wrong = {"max_length": 0, "num_blocks": 0, "num_heads": 0, "head_width": 0, "dropout": -0.1}
    small = "is too small, got 0; allowed 1 or more"
    expected = [
        f"num_heads: {small}",
        f"head_width: {small}",
        "layout: needs a sequence, got none; add a `kind: sequence` to the feature file",
        f"max_length: {small}",
        f"num_blocks: {small}",
        "dropout: is no dropout rate, got -0.1; allowed 0 <= rate < 1",
    ]
    if name in TRANSFORMERS:
        wrong |= {"positions": "rotery", "attention_dropout": 1.0, "time_gaps": True}
        expected += [
            "positions: is unknown, got 'rotery'; allowed learned, rotary, none; did you mean "
            "'rotary'?",
            "time_gaps: needs the times of events, got none; add `times: COLUMN` to the sequence "
            "in the feature file",
            "attention_dropout: is no dropout rate, got 1.0; allowed 0 <= rate < 1",
        ]
    with pytest.raises(RunConfigError) as caught:
        MODELS[name](FieldLayout({}, {}, {}, (), num_items=5), **wrong)
    assert sorted(caught.value.mistakes) == sorted(f"{name}: {line}" for line in expected)


def test_mistaken_names_and_widths_of_a_transformer():
    with pytest.raises(RunConfigError) as caught:
        SequenceTransformer(
            LAYOUT, objective="last", block="postnorm", head="linear", hidden_width=0
        )
    assert [mistake.split(", got")[0] for mistake in caught.value.mistakes] == [
        "SequenceTransformer: objective: is unknown",
        "SequenceTransformer: block: is unknown",
        "SequenceTransformer: head: is unknown",
        "SequenceTransformer: hidden_width: is too small",
    ]


@each_encoder
def test_heads_divide_the_width_of_the_items_or_have_their_own(name):
    with pytest.raises(RunConfigError, match="num_heads: does not divide the width 8"):
        encoder(name, num_heads=3)
    assert encoder(name, num_heads=3, head_width=16)(history()).shape == (13, 8)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("settings", [{"num_heads": 8}, {"head_width": 5}])
def test_rotary_heads_are_even(name, settings):
    with pytest.raises(RunConfigError, match=rf"^{name}: head_width: is odd, but rotary"):
        encoder(name, positions="rotary", **settings)
    encoder(name, positions="learned", **settings)


# ------------------------------------------------------------------------- parts of the models
@each_encoder
def test_positions_count_from_the_end(name):
    """The last token of a long and a short history meets the same position vector."""
    model = encoder(name)
    model.positions.weight.data[3:] = torch.nan
    assert not model(history([1, 2, 3])).isnan().any()
    assert model(history([4])).isnan().any()


def test_bert4rec_head_by_hand():
    model = encoder("BERT4Rec")
    hidden_MD, table_VD = torch.randn(3, 8), torch.randn(11, 8)
    linear, _, norm = model.projection
    head_MD = norm(nn.functional.gelu(hidden_MD @ linear.weight.T + linear.bias))
    expected = head_MD @ table_VD.T + model.item_bias_V
    torch.testing.assert_close(catalogue_scores(model, hidden_MD, table_VD), expected)


@each_encoder
def test_scale_is_of_items_alone(name):
    scaled, plain = (encoder(name, scale_items=scale).eval() for scale in (True, False))
    read = history()
    larger = replace(read, items_LD=read.items_LD * 8**0.5)
    torch.testing.assert_close(scaled(read), plain(larger))


@each_encoder
def test_learns_what_follows(name):
    """Items run in a circle, 1 to 20 and round again, from random starts."""
    torch.manual_seed(0)
    of = FieldLayout({}, {ITEM: 16}, {}, (), {ITEM: 9}, num_items=21)
    model, table_VD = MODELS[name](of, dropout=0.0), nn.Parameter(torch.randn(21, 16) / 4)
    optimizer = torch.optim.Adam([*model.parameters(), table_VD], lr=0.01)
    for _ in range(100):
        lengths_B = torch.randint(2, 10, (32,))
        ids_L = (
            torch.cat([torch.arange(int(n)) + torch.randint(20, ()) for n in lengths_B]) % 20 + 1
        )
        read, wanted_M, targets_M = History(table_VD[ids_L], lengths_B), None, ids_L % 20 + 1
        if model.objective == "cloze":
            masked_L = is_last(lengths_B)
            wanted_M = masked_L.nonzero().squeeze(1)
            read, targets_M = model.mask(read, masked_L), ids_L[masked_L]
        vectors_MD = model.head(model(read, wanted_M))
        loss = full_softmax(vectors_MD, table_VD, targets_M, bias_V=model.item_bias_V, chunk=64)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5

    asked = torch.tensor([17, 18, 19, 20])
    read = History(table_VD[asked], torch.tensor([4]))
    if model.objective == "cloze":
        read = History(table_VD[torch.cat([asked, asked[:1]])], torch.tensor([5]))
        read = model.mask(read, torch.arange(5) == 4)
    logits_V = catalogue_scores(model.eval(), model(read)[-1:], table_VD)[0]
    assert logits_V[1:].argmax() + 1 == 1


@pytest.mark.parametrize("name", ["ESASRec", "BERT4Rec"])
def test_layers_are_four_times_as_wide_as_items_whatever_is_beside_them(name):
    wide = replace(LAYOUT, sequences={ITEM: 8, SIDE: 32})
    alone = replace(LAYOUT, sequences={ITEM: 8})
    shapes = [
        {key: value.shape for key, value in MODELS[name](layout).blocks.state_dict().items()}
        for layout in (wide, alone)
    ]
    assert shapes[0] == shapes[1]
    with pytest.raises(RunConfigError, match="hidden_width: is too small, got 0"):
        MODELS[name](LAYOUT, hidden_width=0)
