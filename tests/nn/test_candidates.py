import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.nn.candidates import candidate_logits, hide_hits, positive_logits, sampled_logits

SIZES = st.lists(st.integers(0, 6), max_size=20)
K, D = 3, 4


def inputs(sizes):
    torch.manual_seed(0)
    vectors_MD = torch.randn(sum(sizes), D, dtype=torch.float64, requires_grad=True)
    candidates_SKD = torch.randn(len(sizes), K, D, dtype=torch.float64, requires_grad=True)
    bias_SK = torch.randn(len(sizes), K, dtype=torch.float64, requires_grad=True)
    return vectors_MD, candidates_SKD, bias_SK


def by_loop(vectors_MD, candidates_SKD, bias_SK, sizes):
    parts = [
        part_WD @ candidates_KD.T + bias_K
        for part_WD, candidates_KD, bias_K in zip(
            vectors_MD.split(sizes), candidates_SKD, bias_SK, strict=True
        )
    ]
    # The tensors are named so that a gradient reaches them where there is no run.
    return torch.cat([vectors_MD.new_zeros(0, K) * bias_SK.sum(), *parts])


@settings(deadline=None)
@given(SIZES, st.booleans(), st.sampled_from([torch.int32, torch.int64]))
def test_logits_and_gradients_of_runs(sizes, has_bias, dtype):
    vectors_MD, candidates_SKD, bias_SK = tensors = inputs(sizes)
    logits_MK = candidate_logits(
        vectors_MD,
        candidates_SKD,
        torch.tensor(sizes, dtype=dtype),
        bias_SK=bias_SK if has_bias else None,
    )
    expected_MK = by_loop(vectors_MD, candidates_SKD, bias_SK * has_bias, sizes)
    torch.testing.assert_close(logits_MK, expected_MK)
    weights_MK = torch.randn(logits_MK.shape, dtype=torch.float64)
    wanted = tensors[: 2 + has_bias]
    torch.testing.assert_close(
        torch.autograd.grad((weights_MK * logits_MK).sum(), wanted, materialize_grads=True),
        torch.autograd.grad((weights_MK * expected_MK).sum(), wanted, materialize_grads=True),
    )


@pytest.mark.parametrize(
    "sizes", [[7], [1] * 6, [3] * 4, [1], [9, 1, 4, 4, 0, 30]], ids=lambda sizes: f"runs{sizes}"
)
def test_one_set_for_all_and_one_for_each(sizes):
    vectors_MD, candidates_SKD, bias_SK = inputs(sizes)
    assert torch.autograd.gradcheck(
        lambda v, c, b: candidate_logits(v, c, torch.tensor(sizes), bias_SK=b),
        (vectors_MD, candidates_SKD, bias_SK),
    )


def test_many_candidates_take_more_buckets(monkeypatch):
    monkeypatch.setattr("recsys.nn.candidates._LOGITS_OF_A_BUCKET", 3)
    sizes = [5, 1, 3, 3, 2, 7, 4, 6, 9, 8, 2, 5]
    vectors_MD, candidates_SKD, bias_SK = inputs(sizes)
    logits_MK = candidate_logits(vectors_MD, candidates_SKD, torch.tensor(sizes), bias_SK=bias_SK)
    torch.testing.assert_close(logits_MK, by_loop(vectors_MD, candidates_SKD, bias_SK, sizes))


@pytest.mark.parametrize("sizes", [[2, 2], [1, 3]])
def test_full_precision_under_autocast(sizes):
    vectors_MD, candidates_SKD, _ = (tensor.detach().float() for tensor in inputs(sizes))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half_MD = vectors_MD.bfloat16().requires_grad_()
        logits_MK = candidate_logits(half_MD, candidates_SKD, torch.tensor(sizes))
        positives_M = positive_logits(half_MD, candidates_SKD.flatten(0, 1)[:4])
        (logits_MK.sum() + positives_M.sum()).backward()
    assert logits_MK.dtype == positives_M.dtype == torch.float32
    assert half_MD.grad.dtype == torch.bfloat16
    exact_MK = candidate_logits(half_MD.float(), candidates_SKD, torch.tensor(sizes))
    assert torch.equal(logits_MK, exact_MK)


@given(SIZES, st.integers(1, 6), st.randoms(use_true_random=False))
def test_hits_are_hidden_and_nothing_else(sizes, num_items, random):
    targets = [random.randint(0, num_items) for _ in range(sum(sizes))]
    ids_SK = [[random.randint(1, num_items) for _ in range(K)] for _ in sizes]
    owners = [s for s, size in enumerate(sizes) for _ in range(size)]
    hidden_MK = hide_hits(
        torch.ones(len(targets), K),
        torch.tensor(targets, dtype=torch.int64),
        ids_SK=torch.tensor(ids_SK, dtype=torch.int64).view(len(sizes), K),
        sizes_S=torch.tensor(sizes, dtype=torch.int64),
    )
    expected = [
        [-torch.inf if item == target else 1.0 for item in ids_SK[owner]]
        for target, owner in zip(targets, owners, strict=True)
    ]
    assert hidden_MK.tolist() == expected


@pytest.mark.parametrize("sizes", [[2, 0, 3], [2, 2], [4], [1, 1, 1]])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("log_q", [False, True])
def test_sampled_logits_from_the_item_table(sizes, has_bias, log_q):
    """Against a table of all logits; the gradients pass by the hidden hits."""
    torch.manual_seed(5)
    num_positions, num_items = sum(sizes), 5
    vectors_MD = torch.randn(num_positions, D, dtype=torch.float64, requires_grad=True)
    table_VD = torch.randn(num_items + 1, D, dtype=torch.float64, requires_grad=True)
    bias_V = torch.randn(num_items + 1, dtype=torch.float64, requires_grad=True)
    expected_SK = torch.rand(len(sizes), K, dtype=torch.float64)
    targets_M = torch.randint(0, num_items + 1, (num_positions,))
    ids_SK = torch.randint(1, num_items + 1, (len(sizes), K))

    positives_M, negatives_MK = sampled_logits(
        vectors_MD,
        table_VD[torch.cat([targets_M, ids_SK.flatten()])],
        targets_M=targets_M,
        ids_SK=ids_SK,
        sizes_S=torch.tensor(sizes),
        bias_V=bias_V if has_bias else None,
        log_expected_SK=expected_SK.log() if log_q else None,
    )
    all_MV = vectors_MD @ table_VD.T + bias_V * has_bias
    owner_M = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    ids_MK = ids_SK[owner_M]
    plain_MK = all_MV.gather(1, ids_MK) - expected_SK.log()[owner_M] * log_q
    is_hit_MK = ids_MK == targets_M.unsqueeze(1)
    assert is_hit_MK.any()
    torch.testing.assert_close(positives_M, all_MV.gather(1, targets_M.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(negatives_MK, plain_MK.masked_fill(is_hit_MK, -torch.inf))

    wanted = (vectors_MD, table_VD, *([bias_V] if has_bias else []))
    found = torch.autograd.grad(positives_M.sum() + negatives_MK.exp().sum(), wanted)
    hidden_MK = plain_MK.masked_fill(is_hit_MK, -torch.inf)
    reference = all_MV.gather(1, targets_M.unsqueeze(1)).sum() + hidden_MK.exp().sum()
    torch.testing.assert_close(found, torch.autograd.grad(reference, wanted))
