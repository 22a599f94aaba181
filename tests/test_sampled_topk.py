"""Masks from random draws: what they are on average, and that their gradient is its gradient."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from mist_bench.baselines.parts.masks import normalize
from mist_bench.baselines.parts.sampled_masks import (
    attention_top_k,
    perturbed_top_k,
    random_top_k,
    subset_top_k,
    uniform_mask,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_perturbed_mask_is_a_probability():
    # the higher of two scores 1 apart wins if the difference of two standard normals is below 1
    mask = perturbed_top_k(torch.tensor([[0.0, 1.0]]), 1, sigma=1, samples=100_000)
    assert mask[0, 1].item() == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.005)


def test_perturbed_gradient_is_the_probabilitys():
    def middle_wins(score):
        def density(t):
            return norm.pdf(t - score) * norm.cdf(t) * norm.cdf(t - 1)

        return quad(density, -8, 9)[0]

    scores = torch.tensor([[0.0, 0.4, 1.0]], requires_grad=True)
    mask = perturbed_top_k(scores, 1, sigma=1, samples=200_000)
    mask[0, 1].backward()
    slope = (middle_wins(0.41) - middle_wins(0.39)) / 0.02
    assert slope > 0.2
    assert scores.grad[0, 1].item() == pytest.approx(slope, abs=0.01)


def test_perturbed_gradient_is_the_one_of_one_hots():
    scores, grad = torch.rand(3, 10, requires_grad=True), torch.rand(3, 10)
    state = torch.get_rng_state()
    perturbed_top_k(scores, 4, sigma=0.2, samples=6).backward(grad)
    torch.set_rng_state(state)
    x = scores.detach().clone().requires_grad_()
    normal = normalize(x)
    noise = torch.randn(3, 6, 10)
    index = (normal[:, None] + 0.2 * noise).topk(4).indices
    selected = torch.zeros(3, 6, 10).scatter(2, index, 1.0)
    jacobian = torch.einsum("bji,bjl->bil", selected, noise) / (6 * 0.2)
    normal.backward(torch.einsum("bi,bil->bl", grad, jacobian))
    torch.testing.assert_close(scores.grad, x.grad)


def test_subset_of_one_is_drawn_with_the_softmaxs_probabilities():
    scores = torch.tensor([0.0, 1.0, 2.0])
    mask = subset_top_k(scores.expand(20_000, 3), 1, temperature=0.01)
    np.testing.assert_allclose(mask.mean(0), scores.softmax(0), atol=0.015)
    assert (mask.amax(1) > 0.99).float().mean() > 0.95


def test_subset_takes_each_location_once():
    mask = subset_top_k(torch.randn(50, 20), 5, temperature=1e-3)
    np.testing.assert_allclose((mask > 0.99).sum(1).float().mean(), 5, atol=0.1)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_attention_is_unbiased_with_its_gradient(count):
    rows, features = 100_000, torch.tensor([1.0, -2.0, 0.5, 3.0])
    scores = torch.tensor([0.5, 0.0, 1.0, -1.0]).expand(rows, 4).clone().requires_grad_()
    mask = attention_top_k(scores, count)
    attention = scores[0].detach().softmax(0)
    np.testing.assert_allclose(mask.detach().mean(0) / count, attention, atol=0.01)
    (mask @ features).sum().div(count).backward()
    wanted = attention * (features - attention @ features)
    np.testing.assert_allclose(scores.grad.mean(0), wanted, atol=0.02)


def test_attention_over_two_of_two():
    # first a_1 = a_2 = 1/2: estimates f_1 and f_1 / 2 + f_2 / 2
    mask = attention_top_k(torch.zeros(5, 2), 2)
    np.testing.assert_allclose(mask.sort(1).values, [[0.5, 1.5]] * 5)


def test_attention_of_certain_scores_has_a_finite_gradient():
    scores = torch.tensor([[0.0, 300.0, 0.0, -300.0]], requires_grad=True)
    mask = attention_top_k(scores, 4)
    mask.square().sum().backward()
    assert torch.isfinite(scores.grad).all()


def test_random_mask_is_uniform():
    mask = random_top_k(torch.zeros(20_000, 5), 2)
    assert set(mask.unique().tolist()) == {0, 1}
    np.testing.assert_allclose(mask.mean(0), [0.4] * 5, atol=0.015)


def test_uniform_mask():
    assert uniform_mask(torch.rand(2, 4), 3).tolist() == [[0.75] * 4] * 2


@pytest.mark.parametrize("sigma", [1e300, 1e38, 1e-300])
def test_noise_must_be_a_number_of_the_scores_type(sigma):
    scores = torch.rand(1, 3)
    with pytest.raises(ValueError, match=r"sigma must be .* in the range of torch.float32, got 1e"):
        perturbed_top_k(scores, 1, sigma=sigma, samples=1)
    mask = perturbed_top_k(scores.double(), 1, sigma=sigma, samples=9)
    assert mask.sum().item() == pytest.approx(1)


def test_the_gradient_needs_no_one_hots():
    scores = torch.rand(2, 50, requires_grad=True)
    mask = perturbed_top_k(scores, 9, sigma=0.1, samples=20)
    noise, index = mask.grad_fn.saved_tensors
    assert (noise.shape, index.shape) == ((2, 20, 50), (2, 20, 9))


def test_gradient_of_perturbed_scores_is_the_finite_difference_of_their_mean():
    # far below the noise: the mean is smooth, and both sides use many draws
    def mask(scores):
        torch.manual_seed(3)
        return perturbed_top_k(scores, 2, sigma=0.5, samples=400_000)[0, 1]

    scores = torch.tensor([[0.0, 0.2, 0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    mask(scores).backward()
    step = torch.tensor([[0.0, 0.05, 0.0, 0.0]], dtype=torch.float64)
    above, below = (mask(scores.detach() + sign * step) for sign in (1, -1))
    assert scores.grad[0, 1].item() == pytest.approx((above - below).item() / 0.1, abs=0.02)


def test_attention_says_where_a_difference_of_scores_is_no_number():
    scores = torch.tensor([[-3e38, 0, 1, 3e38]])
    with pytest.raises(ValueError, match="does not sum to 4: scale scores down"):
        attention_top_k(scores, 4)
