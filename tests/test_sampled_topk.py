"""Masks from random draws: what they are on average, and that their gradient is its gradient."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from mist_bench.baselines.parts import masks as soft_topk
from mist_bench.baselines.parts.masks import normalize
from mist_bench.baselines.parts.sampled_masks import (
    attention_top_k,
    perturbed_top_k,
    random_top_k,
    subset_top_k,
    uniform_mask,
)

OPERATORS = {
    "perturbed": partial(perturbed_top_k, sigma=0.05, samples=7),
    "subset": partial(subset_top_k, temperature=0.1),
    "attention": attention_top_k,
    "random": random_top_k,
    "uniform": uniform_mask,
}
EVERY_OPERATOR = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


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


@EVERY_OPERATOR
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 12), data=st.data())
def test_a_mask_sums_to_k_and_has_a_finite_gradient(operator, seed, size, data):
    torch.manual_seed(seed)
    count = data.draw(st.integers(1, size))
    scores = (10 * torch.randn(3, size)).requires_grad_()
    mask = operator(scores, count)
    assert mask.min() >= 0
    np.testing.assert_allclose(mask.sum(1).detach(), [count] * 3, rtol=1e-4)
    if mask.requires_grad:
        (grad,) = torch.autograd.grad(mask.square().sum(), scores)
        assert torch.isfinite(grad).all()


@EVERY_OPERATOR
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_must_be_finite(operator, value):
    with pytest.raises(ValueError, match="scores must be finite"):
        operator(torch.tensor([[0.0, 1, 2], [0, value, 2]]), 1)


@pytest.mark.parametrize("name", ["perturbed", "subset", "attention"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_unchecked_as_on_a_gpu_they_spoil_the_mask_of_their_image_alone(name, value, monkeypatch):
    monkeypatch.setattr(soft_topk, "is_readable", lambda _: False)
    mask = OPERATORS[name](torch.tensor([[0.0, 1, 2], [0, value, 2]]), 1)
    assert mask[0].isfinite().all()
    assert mask[1].isnan().any()


@EVERY_OPERATOR
@pytest.mark.parametrize("count", [0, 4])
def test_count_must_be_possible(operator, count):
    with pytest.raises(ValueError, match=f"cannot select {count} of 3"):
        operator(torch.rand(1, 3), count)


@pytest.mark.parametrize(
    "operator",
    [
        partial(perturbed_top_k, samples=1),
        lambda scores, count, sigma: subset_top_k(scores, count, temperature=sigma),
    ],
)
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_softness_must_be_positive(operator, value):
    with pytest.raises(ValueError, match=f"must be positive and .*, got {value}"):
        operator(torch.rand(1, 3), 1, sigma=value)


@pytest.mark.parametrize("sigma", [1e300, 1e38, 1e-300])
def test_noise_must_be_a_number_of_the_scores_type(sigma):
    scores = torch.rand(1, 3)
    with pytest.raises(ValueError, match=r"sigma must be .* in the range of torch.float32, got 1e"):
        perturbed_top_k(scores, 1, sigma=sigma, samples=1)
    mask = perturbed_top_k(scores.double(), 1, sigma=sigma, samples=9)
    assert mask.sum().item() == pytest.approx(1)


def test_samples_must_be_positive():
    with pytest.raises(ValueError, match="the samples must be positive, got 0"):
        perturbed_top_k(torch.rand(1, 3), 1, sigma=1, samples=0)


def test_the_gradient_needs_no_one_hots():
    scores = torch.rand(2, 50, requires_grad=True)
    mask = perturbed_top_k(scores, 9, sigma=0.1, samples=20)
    noise, index = mask.grad_fn.saved_tensors
    assert (noise.shape, index.shape) == ((2, 20, 50), (2, 20, 9))
