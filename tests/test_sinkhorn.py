"""Xie20's mask by Sinkhorn iterations: oracles, any epsilon, and what has not converged."""

import numpy as np
import ot
import pytest
import torch

from mist_bench.baselines.parts import masks as soft_topk
from mist_bench.baselines.parts.masks import sinkhorn_top_k, soft_top_k


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
