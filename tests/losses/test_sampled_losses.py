import math

import pytest
import torch
from jsonargparse import ArgumentParser

from features.errors import RunConfigError
from recsys.losses import (
    BinaryCrossEntropy,
    FullSoftmax,
    GeneralizedBCE,
    SampledSoftmax,
    full_softmax,
)
from recsys.protocols import SequenceLoss

SAMPLED = [SampledSoftmax(), BinaryCrossEntropy(), GeneralizedBCE(calibration=0.75)]
BY_NAME = pytest.mark.parametrize("loss", SAMPLED, ids=lambda loss: type(loss).__name__)
NUM_ITEMS = 12  # ids, of which 0 is no item


def logits(num_positions, num_negatives, *, scale=1.0):
    torch.manual_seed(0)
    positives_M = scale * torch.randn(num_positions, dtype=torch.float64)
    negatives_MK = scale * torch.randn(num_positions, num_negatives, dtype=torch.float64)
    return positives_M.requires_grad_(), negatives_MK.requires_grad_()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def by_hand(loss, positive, negatives):
    """One position, as the papers write it."""
    if isinstance(loss, SampledSoftmax):
        total = math.exp(positive) + sum(map(math.exp, negatives))
        return -math.log(math.exp(positive) / total)
    beta = 1.0
    if isinstance(loss, GeneralizedBCE):
        alpha = len(negatives) / (NUM_ITEMS - 2)
        beta = alpha * (loss.calibration * (1 - 1 / alpha) + 1 / alpha)
    shift = math.log(beta / len(negatives))
    costs = [-math.log(sigmoid(positive + shift) ** beta)]
    costs += [-math.log(1 - sigmoid(negative + shift)) for negative in negatives]
    return sum(costs) / len(costs)


@BY_NAME
@pytest.mark.parametrize("num_negatives", [1, 3])
def test_mean_over_the_counted_positions(loss, num_negatives):
    positives_M, negatives_MK = logits(5, num_negatives)
    with torch.no_grad():
        negatives_MK[1, 0] = -torch.inf
    is_counted_M = torch.tensor([True, True, False, True, False])
    value = loss(positives_M, negatives_MK, is_counted_M=is_counted_M, num_items=NUM_ITEMS)
    expected = [by_hand(loss, positives_M[m].item(), negatives_MK[m].tolist()) for m in (0, 1, 3)]
    assert value.item() == pytest.approx(sum(expected) / 3, rel=1e-12)


@BY_NAME
def test_gradients(loss):
    is_counted_M = torch.tensor([True, False, True, True])

    def value(positives_M, negatives_MK):
        return 3 * loss(positives_M, negatives_MK, is_counted_M=is_counted_M, num_items=NUM_ITEMS)

    assert torch.autograd.gradcheck(value, logits(4, 3))


@BY_NAME
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positive", [-50.0, 50.0])
@pytest.mark.parametrize("negative", [-50.0, 50.0])
def test_extreme_logits(loss, dtype, positive, negative):
    positives_M = torch.tensor([positive], dtype=dtype, requires_grad=True)
    negatives_MK = torch.tensor([[negative, negative]], dtype=dtype, requires_grad=True)
    value = loss(positives_M, negatives_MK, is_counted_M=torch.tensor([True]), num_items=NUM_ITEMS)
    value.backward()
    if isinstance(loss, SampledSoftmax):
        expected = softplus(math.log(2) + negative - positive)
    else:
        alpha = 2 / (NUM_ITEMS - 2)
        beta = 1 - loss.calibration * (1 - alpha) if isinstance(loss, GeneralizedBCE) else 1.0
        shift = math.log(beta / 2)
        expected = (beta * softplus(-positive - shift) + 2 * softplus(negative + shift)) / 3
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert -1 <= positives_M.grad.item() <= 0
    assert ((negatives_MK.grad >= 0) & (negatives_MK.grad <= 1)).all()


@BY_NAME
def test_accidental_hits_cost_nothing(loss):
    """All negatives of the first position are its target, which leaves the target's own cost."""
    positives_M, _ = logits(2, 1)
    negatives_MK = torch.full((2, 3), -torch.inf, dtype=torch.float64)
    negatives_MK[1] = 0.5
    negatives_MK.requires_grad_()
    loss(
        positives_M, negatives_MK, is_counted_M=torch.tensor([True, True]), num_items=NUM_ITEMS
    ).backward()
    assert negatives_MK.grad[0].tolist() == [0, 0, 0]
    assert (negatives_MK.grad[1] > 0).all()
    assert positives_M.grad.isfinite().all()
    if isinstance(loss, SampledSoftmax):
        assert positives_M.grad[0] == 0


@BY_NAME
@pytest.mark.parametrize("num_positions", [0, 2])
def test_no_counted_position(loss, num_positions):
    positives_M, negatives_MK = logits(num_positions, 3)
    is_counted_M = torch.zeros(num_positions, dtype=torch.bool)
    value = loss(positives_M, negatives_MK, is_counted_M=is_counted_M, num_items=NUM_ITEMS)
    value.backward()
    assert value == 0
    assert not positives_M.grad.any()
    assert not negatives_MK.grad.any()


@pytest.mark.parametrize(("loss", "num_negatives"), [(SAMPLED[1], 1), (SAMPLED[2], 5)])
def test_scores_of_0_pull_neither_up_nor_down_together(loss, num_negatives):
    positives_M = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    negatives_MK = torch.zeros(3, num_negatives, dtype=torch.float64, requires_grad=True)
    everywhere_M = torch.ones(3, dtype=torch.bool)
    loss(positives_M, negatives_MK, is_counted_M=everywhere_M, num_items=100).backward()
    # The pulls are beta (1 - sigma) and K sigma, where K sigma / (1 - sigma) is beta.
    share = (positives_M.grad + negatives_MK.grad.sum(1)) / negatives_MK.grad.sum(1)
    assert share.abs().max() < 1e-12


def stable_form_of_the_paper(positives_M, negatives_MK, beta):
    """gSASRec's published code: the positive logit is converted, then plain cross-entropy."""
    probability_M = torch.sigmoid(positives_M).clamp(1e-10, 1 - 1e-10)
    power_M = (probability_M**-beta).clamp(min=1 + 1e-10)
    converted_M = torch.log(1 / (power_M - 1))
    all_MJ = torch.cat([converted_M.unsqueeze(1), negatives_MK], dim=1)
    labels_MJ = torch.zeros_like(all_MJ)
    labels_MJ[:, 0] = 1
    return torch.nn.functional.binary_cross_entropy_with_logits(all_MJ, labels_MJ)


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_generalized_bce_is_the_published_code(calibration):
    positives_M, negatives_MK = logits(40, 4, scale=4.0)
    alpha = 4 / (NUM_ITEMS - 2)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    shift = math.log(beta / 4)
    expected = stable_form_of_the_paper(positives_M + shift, negatives_MK + shift, beta)
    everywhere_M = torch.ones(40, dtype=torch.bool)
    loss = GeneralizedBCE(calibration=calibration)
    value = loss(positives_M, negatives_MK, is_counted_M=everywhere_M, num_items=NUM_ITEMS)
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=0)
    if calibration == 0:
        plain = BinaryCrossEntropy()
        assert value == plain(
            positives_M, negatives_MK, is_counted_M=everywhere_M, num_items=NUM_ITEMS
        )


def test_generalized_bce_with_more_negatives_than_items_is_plain():
    positives_M, negatives_MK = logits(3, 5)
    counted_M = torch.ones(3, dtype=torch.bool)
    for num_items in (2, 3, 7):
        value = GeneralizedBCE()(
            positives_M, negatives_MK, is_counted_M=counted_M, num_items=num_items
        )
        assert value == BinaryCrossEntropy()(
            positives_M, negatives_MK, is_counted_M=counted_M, num_items=num_items
        )


def softmax_gradients(*, num_negatives, log_q, repeats):
    """Mean gradient of the item table: of sampled softmax by popularity, and of the full one."""
    generator = torch.Generator().manual_seed(0)
    num_items, num_positions = 30, 8
    items_VD = torch.randn(num_items + 1, 5, dtype=torch.float64, generator=generator)
    vectors_MD = torch.randn(num_positions, 5, dtype=torch.float64, generator=generator)
    targets_M = torch.randint(1, num_items + 1, (num_positions,), generator=generator)
    chance_V = 1 / torch.arange(num_items + 1, dtype=torch.float64)
    chance_V[0] = 0
    chance_V /= chance_V.sum()
    items_VD.requires_grad_()

    total = torch.zeros_like(items_VD)
    for _ in range(repeats):
        ids_MK = torch.multinomial(
            chance_V.expand(num_positions, -1), num_negatives, replacement=True, generator=generator
        )
        negatives_MK = (vectors_MD.unsqueeze(1) * items_VD[ids_MK]).sum(2)
        if log_q:
            negatives_MK = negatives_MK - (num_negatives * chance_V[ids_MK]).log()
        negatives_MK = negatives_MK.masked_fill(ids_MK == targets_M.unsqueeze(1), -torch.inf)
        loss = SampledSoftmax(num_negatives=num_negatives, log_q=log_q)(
            (vectors_MD * items_VD[targets_M]).sum(1),
            negatives_MK,
            is_counted_M=targets_M > 0,
            num_items=num_items + 1,
        )
        total += torch.autograd.grad(loss, items_VD)[0] / repeats
    full = torch.autograd.grad(full_softmax(vectors_MD, items_VD, targets_M), items_VD)[0]
    return total, full


def test_log_q_estimates_the_full_softmax():
    def error(*, num_negatives, log_q, repeats):
        sampled, full = softmax_gradients(num_negatives=num_negatives, log_q=log_q, repeats=repeats)
        return ((sampled - full).norm() / full.norm()).item()

    # The bias falls with the number of negatives, and only where the correction is made.
    assert error(num_negatives=20_000, log_q=True, repeats=1) < 0.04
    assert error(num_negatives=20_000, log_q=False, repeats=1) > 0.15
    few = error(num_negatives=10, log_q=True, repeats=500)
    more = error(num_negatives=100, log_q=True, repeats=200)
    assert more < few / 2


@pytest.mark.parametrize(
    ("name", "settings", "made"),
    [
        ("SampledSoftmax", {"num_negatives": 7, "log_q": True}, SampledSoftmax),
        ("BinaryCrossEntropy", {"negatives_from": "popularity"}, BinaryCrossEntropy),
        ("GeneralizedBCE", {"calibration": 0.5, "negatives_per": "batch"}, GeneralizedBCE),
        ("FullSoftmax", {}, FullSoftmax),
    ],
)
def test_chosen_by_bare_name(name, settings, made):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=SequenceLoss | None)
    parsed = parser.parse_object({"loss": {"class_path": name, "init_args": settings}})
    loss = parser.instantiate(parsed).loss
    assert type(loss) is made
    assert {key: getattr(loss, key) for key in settings} == settings


def test_settings_out_of_range():
    with pytest.raises(RunConfigError) as caught:
        GeneralizedBCE(
            num_negatives=0, calibration=1.5, negatives_per="postion", negatives_from="x"
        )
    assert caught.value.mistakes == (
        "GeneralizedBCE.num_negatives: is too small, got 0; allowed 1 or more",
        "GeneralizedBCE.negatives_per: is unknown, got 'postion'; allowed sequence, position, "
        "batch; did you mean 'position'?",
        "GeneralizedBCE.negatives_from: is unknown, got 'x'; allowed uniform, popularity",
        "GeneralizedBCE.calibration: is no share, got 1.5; allowed 0 to 1",
    )
