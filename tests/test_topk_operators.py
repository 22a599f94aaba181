"""What every top-K operator must do, exact or sampled, at any size; values are in its own file."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mist_bench.models.sampled_topk import (
    attention_top_k,
    perturbed_top_k,
    random_top_k,
    subset_top_k,
    uniform_mask,
)
from mist_bench.models.soft_topk import lapsum_top_k, sinkhorn_top_k, soft_top_k, sparse_top_k

OPERATORS = {
    "exact": partial(soft_top_k, epsilon=0.01),
    "sinkhorn": partial(sinkhorn_top_k, epsilon=0.1, iterations=50),
    "lapsum": partial(lapsum_top_k, temperature=0.005),
    "sparse": partial(sparse_top_k, temperature=0.03),
    "perturbed": partial(perturbed_top_k, sigma=0.05, samples=4),
    "subset": partial(subset_top_k, temperature=0.1),
    "attention": attention_top_k,
    "random": random_top_k,
    "uniform": uniform_mask,
}
EVERY_OPERATOR = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
# relaxed subsets and attention give weights instead, which may exceed 1 (their docstrings)
FRACTIONS = pytest.mark.parametrize("name", sorted(OPERATORS.keys() - {"subset", "attention"}))


def seeded(operator, scores, count):
    """Return the mask of the same draws every time."""
    torch.manual_seed(3)
    return operator(scores, count)


@EVERY_OPERATOR
@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 1), (30, 1), (30, 30), (100_000, 9)])
def test_a_mask_of_any_size_sums_to_k_and_has_a_finite_gradient(operator, size, count):
    scores = torch.rand(2, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = seeded(operator, scores, count)
    assert mask.shape == scores.shape
    assert mask.min() >= 0
    np.testing.assert_allclose(mask.detach().double().sum(1), [count] * 2, rtol=1e-4)
    if mask.requires_grad:
        (grad,) = torch.autograd.grad(mask.square().sum(), scores)
        assert torch.isfinite(grad).all()


@FRACTIONS
def test_a_mask_is_a_fraction(name):
    for count in (1, 5, 20):
        mask = seeded(OPERATORS[name], 3 * torch.randn(50, 20), count)
        assert mask.max() <= 1 + 1e-6


@EVERY_OPERATOR
def test_other_images_of_the_batch_do_not_matter(operator):
    generator = torch.Generator().manual_seed(0)
    own, others = torch.rand(1, 40, generator=generator), torch.rand(2, 3, 40, generator=generator)
    first, second = (seeded(operator, torch.cat([own, one]), 4)[0] for one in others)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@EVERY_OPERATOR
def test_ties_share_on_average(operator):
    mask = seeded(operator, torch.full((10_000, 4), 2.5), 2)
    np.testing.assert_allclose(mask.mean(0), [0.5] * 4, atol=0.02)


@FRACTIONS
def test_all_of_all_is_everything(name):
    mask = seeded(OPERATORS[name], torch.randn(20, 6), 6)
    np.testing.assert_allclose(mask, np.ones((20, 6)), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_gradient_of_a_drawn_subset_is_the_finite_difference(count):
    torch.manual_seed(count)
    scores = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    operator = partial(subset_top_k, temperature=0.7)
    assert gradcheck(lambda x: seeded(operator, x, count), (scores,))


def test_gradient_of_perturbed_scores_is_the_finite_difference_of_their_mean():
    # far below the noise: the mean is smooth, and both sides use many draws
    operator = partial(perturbed_top_k, sigma=0.5, samples=400_000)
    scores = torch.tensor([[0.0, 0.2, 0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    seeded(operator, scores, 2)[0, 1].backward()
    step = torch.tensor([[0.0, 0.05, 0.0, 0.0]], dtype=torch.float64)
    above, below = (seeded(operator, scores.detach() + sign * step, 2)[0, 1] for sign in (1, -1))
    assert scores.grad[0, 1].item() == pytest.approx((above - below).item() / 0.1, abs=0.02)
