"""Exact masks that sum to K: stored outputs, oracles, and what numbers cannot do."""

import math

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import brentq, minimize
from scipy.stats import laplace, logistic, uniform
from torch.autograd import gradcheck

from mist_bench.baselines.parts import masks as soft_topk
from mist_bench.baselines.parts.masks import (
    LAPLACE,
    LOGISTIC,
    RAMP,
    normalize,
    sinkhorn_top_k,
    soft_top_k,
    sparse_top_k,
    threshold_top_k,
)

FAMILY = {"logistic": LOGISTIC, "laplace": LAPLACE, "ramp": RAMP}
EVERY_SHAPE = pytest.mark.parametrize("distribution", FAMILY.values(), ids=FAMILY)


def rows(*values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def published_by_iterations(scores):
    """Return the mask that the published operator's own plan gives: the smallest go to anchor 0."""
    cost = torch.stack([scores**2, (scores - 1) ** 2], dim=1) / 36
    return 6 * soft_topk._TransportPlan.apply(cost, 0.5, 0.05, 500, 1e-8)[:, 0]


@pytest.mark.parametrize(
    "smallest",
    [lambda scores: threshold_top_k(-scores, 3, LOGISTIC, 0.9), published_by_iterations],
    ids=["threshold", "iterations"],
)
def test_stored_output_of_the_published_operator(smallest):
    # google-research soft_topk, demo notebook: the 3 smallest, epsilon .05, costs over their
    # maximum 36, hence T = .05 * 36 / 2; the gradient is the one of elements 1 to 3
    scores = rows([5, 2, 3, 4, 1, 6], grad=True)
    mask = smallest(scores)
    wanted = [0.15886909, 0.84113085, 0.63542354, 0.36457655, 0.9414631, 0.05853688]
    np.testing.assert_allclose(mask[0].detach(), wanted, atol=1e-6)
    mask[0, 1:4].sum().backward()
    wanted = [0.10541585, -0.04306151, -0.07465184, -0.07465144, 0.04347444, 0.04347456]
    np.testing.assert_allclose(scores.grad[0], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("distribution", "temperature", "upper"),
    [
        (LOGISTIC, 0.5, 1 / (1 + math.exp(-1))),
        (LAPLACE, 0.5, 1 - 0.5 * math.exp(-1)),
        (RAMP, 2, 0.75),
    ],
)
def test_one_of_two(distribution, temperature, upper):
    # by symmetry the logistic's and Laplace's tau is 1/2; the ramp's solves (1 - 2 tau) / 2 = 1
    mask = threshold_top_k(rows([0, 1]), 1, distribution, temperature)
    np.testing.assert_allclose(mask[0], [1 - upper, upper], atol=1e-12)


@pytest.mark.parametrize("temperature", [0.001, 0.02, 0.5])
@pytest.mark.parametrize(
    ("distribution", "oracle"), [(LOGISTIC, logistic), (LAPLACE, laplace), (RAMP, uniform)]
)
def test_threshold_is_scipys(distribution, oracle, temperature):
    scores = np.random.default_rng(0).random(50)

    def excess(tau):
        return oracle.cdf((scores - tau) / temperature).sum() - 7

    tau = brentq(excess, -40, 40, xtol=1e-15)
    mask = threshold_top_k(torch.tensor(scores)[None], 7, distribution, temperature)
    np.testing.assert_allclose(mask[0], oracle.cdf((scores - tau) / temperature), atol=1e-9)


def test_sparse_mask_is_the_nearest_one():
    scores = np.array([0.0, 0.3, 0.45, 0.5, 0.9, 1.0])
    nearest = minimize(
        lambda mask: ((mask - scores / 0.4) ** 2).sum(),
        np.full(6, 0.5),
        bounds=[(0, 1)] * 6,
        constraints={"type": "eq", "fun": lambda mask: mask.sum() - 3},
        options={"ftol": 1e-14},
    )
    mask = sparse_top_k(torch.tensor(scores)[None], 3, temperature=0.4)
    np.testing.assert_allclose(mask[0], nearest.x, atol=1e-6)
    assert (mask == 0).any()


@EVERY_SHAPE
def test_gradient_of_the_family_is_the_finite_difference(distribution):
    torch.manual_seed(0)
    scores = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: threshold_top_k(x, 3, distribution, 0.7), (scores,))


BEYOND_FLOAT64 = pytest.mark.parametrize(
    ("values", "count", "temperature"),
    [
        ([0, 0.5, 0.5, 0.5, 1], 2, 1e-16),
        ([-1e30, 0, 0.5, 0.5, 1, 1e30], 3, 0.1),
        ([-1e308, 0.3, 0.5, 1e308], 2, 0.1),
    ],
)


@EVERY_SHAPE
@BEYOND_FLOAT64
def test_a_mask_that_does_not_sum_to_k_is_refused(distribution, values, count, temperature):
    with pytest.raises(ValueError, match=f"does not sum to {count}: scale scores down"):
        threshold_top_k(rows(values), count, distribution, temperature)


@EVERY_SHAPE
@BEYOND_FLOAT64
def test_as_on_a_gpu_a_mask_that_does_not_sum_to_k_is_spoiled(
    distribution, values, count, temperature, monkeypatch
):
    monkeypatch.setattr(soft_topk, "is_readable", lambda _: False)
    equal = [0] * len(values)
    mask = threshold_top_k(rows(equal, values), count, distribution, temperature)
    np.testing.assert_allclose(mask[0], [count / len(values)] * len(values))
    assert mask[1].isnan().all()


@EVERY_SHAPE
def test_a_hundred_thousand_locations(distribution):
    torch.manual_seed(0)
    scores = torch.rand(1, 100_000, dtype=torch.float64)
    mask = threshold_top_k(scores, 9, distribution, 1e-5)
    assert mask.sum().item() == pytest.approx(9, abs=1e-7)


def test_normalized_scores_span_the_unit_interval():
    assert normalize(rows([3, 1, 2], [4, 4, 4])).tolist() == [[1, 0, 0.5], [0, 0, 0]]


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_sinkhorn_is_pots(epsilon):
    scores = np.random.default_rng(1).random(40)
    x = (scores - scores.min()) / np.ptp(scores)
    cost = np.stack([x**2, (1 - x) ** 2], axis=1)
    masses = np.full(40, 1 / 40), np.array([35 / 40, 5 / 40])
    plan = ot.sinkhorn(*masses, cost, epsilon, method="sinkhorn_log", stopThr=1e-12)
    mask = sinkhorn_top_k(torch.tensor(scores)[None], 5, epsilon=epsilon, iterations=500)
    np.testing.assert_allclose(mask[0], 40 * plan[:, 1], atol=1e-9)


def test_sinkhorn_converges_to_the_closed_form_with_its_gradient():
    torch.manual_seed(0)
    scores = torch.rand(1, 400, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(400, dtype=torch.float64)
    results = []
    for mask in (
        soft_top_k(scores, 9, epsilon=0.05),
        sinkhorn_top_k(scores, 9, epsilon=0.05, iterations=100),
    ):
        (grad,) = torch.autograd.grad((mask * weight).sum(), scores)
        results.append((mask.detach(), grad))
    for exact, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, exact, atol=1e-9)


@pytest.mark.parametrize("epsilon", [1.0, 1e-2, 1e-4, 1e-6])
def test_sinkhorn_stays_finite_for_any_epsilon(epsilon):
    torch.manual_seed(0)
    scores = torch.rand(3, 30) / 10
    scores[:, :4] += 1  # a gap: the sharpest plan is found, too
    scores.requires_grad_()
    mask = sinkhorn_top_k(scores, 4, epsilon=epsilon, iterations=50)
    (grad,) = torch.autograd.grad(mask.square().sum(), scores)
    np.testing.assert_allclose(mask.sum(1).detach(), [4] * 3, atol=1e-4)
    # a sharp plan makes the gradient 0 / 0 but for the clip
    assert torch.isfinite(grad).all()


TOO_FEW = pytest.mark.parametrize(
    ("size", "count", "epsilon", "iterations"), [(40, 35, 0.1, 1), (400, 9, 1e-4, 200)]
)


@TOO_FEW
def test_sinkhorn_says_that_it_has_not_converged(size, count, epsilon, iterations):
    scores = torch.rand(2, size, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=f"not converged in {iterations} iterations: make more"):
        sinkhorn_top_k(scores, count, epsilon=epsilon, iterations=iterations)


@TOO_FEW
def test_as_on_a_gpu_sinkhorn_spoils_the_masks_that_have_not_converged(
    size, count, epsilon, iterations, monkeypatch
):
    monkeypatch.setattr(soft_topk, "is_readable", lambda _: False)
    scores = torch.rand(2, size, generator=torch.Generator().manual_seed(0))
    scores[0] = (torch.arange(size) < count).float()  # at its limit after one iteration, or nearly
    mask = sinkhorn_top_k(scores, count, epsilon=epsilon, iterations=iterations)
    np.testing.assert_allclose(mask[0], scores[0], atol=0.05)
    assert mask[1].isnan().all()


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.01, 200), (0.05, 50), (0.4, 20)])
@pytest.mark.parametrize("count", [1, 9, 399])
def test_sinkhorn_that_has_converged_is_in_range(count, epsilon, iterations):
    scores = torch.rand(4, 400, generator=torch.Generator().manual_seed(0))
    mask = sinkhorn_top_k(scores, count, epsilon=epsilon, iterations=iterations)
    assert mask.min() >= 0
    assert mask.max() <= 1.01
    np.testing.assert_allclose(mask, soft_top_k(scores, count, epsilon=epsilon), atol=0.02)
